# The head goes away under load and comes back.
case $STEP in
begin)
    clean; settings; daemon; record $A; login $A
    busy "/dev/$(disk $A)" 8
    still_busy 300
    ;;
gone)
    # The initiator has noticed: it tries to log in again.
    session_down() { grep -qv LOGGED_IN /sys/class/iscsi_session/session*/state; }
    within 90 session_down
    cat /tmp/rounds
    ;;
back)
    session_up() { [ "$(cat /sys/class/iscsi_session/session*/state)" = LOGGED_IN ]; }
    within 120 session_up
    still_busy 300
    ;;
end)
    not_busy 300
    no_io_errors
    [ "$(dmesg | grep -c 'detected conn error')" -ge 1 ] || fail "no connection was lost: nothing was proved"
    ;;
esac
