# APTPL: a reservation that outlives the head, where the head says that it can; refused where it cannot.
MINE=0x1111
pr() { sg_persist --no-inquiry "$@"; }
writes() { sg_raw -s 512 -i /dev/zero "$1" 2a 00 00 00 00 80 00 00 01 00 >/dev/null 2>&1; }
case $STEP in
ask)
    clean; settings; daemon; record $A; record $B; login $A; login $B
    D=/dev/$(disk $A) E=/dev/$(disk $B)
    if pr --in --report-capabilities $D | grep -q 'PTPL_C): 1'; then
        quiet pr --out --register --param-aptpl --param-sark=$MINE $D
        quiet pr --out --reserve --param-rk=$MINE --prout-type=1 $D
        shows 'PTPL_A): 1' pr --in --report-capabilities $D
        echo "APTPL kept"
    else
        # 5: illegal request. Half a promise would be worse than none.
        ends 5 pr --out --register --param-aptpl --param-sark=$MINE $D
        shows 'no registered reservation keys' pr --in --read-keys $D
        echo "APTPL refused"
    fi
    ;;
kept)
    D=/dev/$(disk $A) E=/dev/$(disk $B)
    within 120 sg_turs $D; within 120 sg_turs $E
    shows "$MINE" pr --in --read-reservation $E
    code=0; writes $E || code=$?
    [ $code = 24 ] || fail "the restart opened the disk ($code)"
    writes $D || fail "the holder is not known after the restart"
    quiet pr --out --clear --param-rk=$MINE $D
    ;;
esac
