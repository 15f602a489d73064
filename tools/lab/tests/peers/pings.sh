# Pings of a busy initiator; a head that stops answering; a disk that is taken away.
timeouts() { dmesg | grep -c 'ping timeout'; }
case $STEP in
busy)
    clean
    settings 'node.conn[0].timeo.noop_out_interval=5' 'node.conn[0].timeo.noop_out_timeout=5' \
        node.session.timeo.replacement_timeout=120
    daemon; record $A; login $A
    busy "/dev/$(disk $A)" 8
    # Long enough for several pings beside the load.
    end=$((SECONDS + 25))
    while [ $SECONDS -lt $end ]; do still_busy 300; done
    [ "$(timeouts)" = 0 ] || fail "a ping was not answered in time under load"
    ;;
stopped)
    # The head stands still: only the pings can tell.
    pinged() { [ "$(timeouts)" -ge 1 ]; }
    within 60 pinged
    ;;
again)
    session_up() { [ "$(cat /sys/class/iscsi_session/session*/state)" = LOGGED_IN ]; }
    within 120 session_up
    still_busy 300
    not_busy 300
    no_io_errors
    settings node.session.timeo.replacement_timeout=5
    logout $A; record $A; login $A
    ;;
taken)
    began=$SECONDS
    # An error, not a hang: dd ends by itself.
    if timeout -s KILL 120 dd if="/dev/$(disk $A)" of=/tmp/got bs=4k count=1 skip=$((RANDOM)) iflag=direct; then
        fail "a disk that is gone was read"
    fi
    [ $((SECONDS - began)) -lt 100 ] || fail "the read hung for $((SECONDS - began)) s"
    echo "the read failed after $((SECONDS - began)) s"
    ;;
esac
