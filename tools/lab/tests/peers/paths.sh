# One disk, two ways to it. STEP says how far we are; PATH_UP and PATH_DOWN are portals.
way() { basename "$(readlink -f "$(by_path "$1")")"; }
ways() { multipathd show paths format '%d %t %o %T' 2>/dev/null; }
# way_is PORTAL STATE: what dm-multipath thinks of the way.
way_is() { ways | grep -qE "^$(way "$1") +$2 "; }
requests() { awk '{print $1 + $5}' "/sys/block/$(way "$1")/stat"; }
case $STEP in
begin)
    clean
    settings node.session.timeo.replacement_timeout=5 'node.conn[0].timeo.noop_out_interval=3' \
        'node.conn[0].timeo.noop_out_timeout=5'
    daemon; record $A; record $B
    ok multipathd
    login $A; login $B
    wwid=$(wwid $A)
    case $wwid in naa.6*) ;; *) fail "the disk's name is $wwid" ;; esac
    map=3${wwid#naa.}
    within 60 test -b "/dev/mapper/$map"
    within 60 way_is $A active; within 60 way_is $B active
    [ "$(ls /dev/mapper | grep -c "^3")" = 1 ] || fail "not one map: $(ls /dev/mapper)"
    ok multipath -ll
    echo "$map" >/tmp/map
    busy "/dev/mapper/$map" 8
    before_a=$(requests $A) before_b=$(requests $B)
    still_busy 300
    [ "$(requests $A)" -gt "$before_a" ] && [ "$(requests $B)" -gt "$before_b" ] || fail "one way is not used"
    ;;
cut)
    within 90 way_is "$PATH_DOWN" failed
    still_busy 300
    way_is "$PATH_UP" active || fail "the other way failed, too: $(ways)"
    way_is "$PATH_DOWN" failed || fail "the cut way came back by itself: $(ways)"
    ;;
plugged)
    within 180 way_is "$PATH_DOWN" active
    before=$(requests "$PATH_DOWN")
    still_busy 300
    [ "$(requests "$PATH_DOWN")" -gt "$before" ] || fail "the way that came back is not used"
    ways
    ;;
end)
    not_busy 300
    # fio saw no error; the kernel tells those of a single way, and none of the map.
    if dmesg | grep -E 'Buffer I/O|I/O error, dev dm-'; then fail "errors came through the map"; fi
    dmesg | grep -q 'Failing path' || fail "no way has failed: nothing was proved"
    ;;
esac
