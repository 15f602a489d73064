# Persistent reservations of two nexuses: the two ways to the disk.
clean; settings; daemon; record $A; record $B; login $A; login $B
D=/dev/$(disk $A) E=/dev/$(disk $B)
MINE=0x1111 OTHER=0x2222
pr() { sg_persist --no-inquiry "$@"; }
# What was told to a nexus (unit attentions) is heard before it is asked something else.
heard() { within 30 sg_turs "$1"; }
reads() { sg_raw -r 512 "$1" 28 00 00 00 00 80 00 00 01 00 >/dev/null 2>&1; }
writes() { sg_raw -s 512 -i /dev/zero "$1" 2a 00 00 00 00 80 00 00 01 00 >/dev/null 2>&1; }
# may TYPE WHO READ-CODE WRITE-CODE: what the second nexus may do now.
may() {
    heard $E
    local code=0
    reads $E || code=$?
    [ $code = "$3" ] || fail "type $1: reading by $2 ended with $code instead of $3"
    code=0
    writes $E || code=$?
    [ $code = "$4" ] || fail "type $1: writing by $2 ended with $code instead of $4"
    reads $D && writes $D || fail "type $1: the holder itself is refused"
}
matrix() { # TYPE, then codes of a stranger's read and write, of a registrant's read and write
    quiet pr --out --register --param-sark=$MINE $D
    quiet pr --out --reserve --param-rk=$MINE --prout-type=$1 $D
    # Those of the all-registrants types have no key of their own (SPC-4 6.15.3).
    local key=$MINE
    [ $1 -lt 7 ] || key=0x0
    shows "Key=$key\b" pr --in --read-reservation $E
    may $1 "a stranger" $2 $3
    quiet pr --out --register --param-sark=$OTHER $E
    may $1 "a registrant" $4 $5
    shows "$MINE" pr --in --read-full-status $E
    if [ $1 -lt 7 ]; then ends 24 pr --out --reserve --param-rk=$OTHER --prout-type=$1 $E; fi
    ends 24 pr --out --reserve --param-rk=0x9999 --prout-type=$1 $E
    quiet pr --out --release --param-rk=$MINE --prout-type=$1 $D
    heard $E
    shows 'no reservation|NO reservation' pr --in --read-reservation $D
    quiet pr --out --clear --param-rk=$MINE $D
    heard $D; heard $E
    echo "type $1"
}
shows 'no registered reservation keys' pr --in --read-keys $D
ok pr --in --report-capabilities $D
matrix 1 0 24 0 24
matrix 3 24 24 24 24
matrix 5 0 24 0 0
matrix 6 24 24 0 0
matrix 7 0 24 0 0
matrix 8 24 24 0 0
shows 'no registered reservation keys' pr --in --read-keys $E

echo "== preempt"
without_udev
for action in --preempt --preempt-abort; do
    quiet pr --out --register --param-sark=$MINE $D
    quiet pr --out --register-ignore --param-sark=$OTHER $E
    quiet pr --out --reserve --param-rk=$MINE --prout-type=3 $D
    quiet pr --out $action --param-rk=$OTHER --param-sark=$MINE --prout-type=3 $E
    # The one that was driven out is told so (6), then it is shut out.
    ends 6 sg_turs $D
    heard $D
    code=0; writes $D || code=$?
    [ $code = 24 ] || fail "$action: the old holder's write ended with $code"
    writes $E || fail "$action: the new holder cannot write"
    ends 24 pr --out --reserve --param-rk=$MINE --prout-type=3 $D
    quiet pr --out --clear --param-rk=$OTHER $E
    heard $D
    writes $D || fail "$action: still shut out after CLEAR"
done
shows 'no registered reservation keys' pr --in --read-keys $D

echo "== registrations belong to the initiator port, not to a connection or a session"
quiet pr --out --register --param-sark=$MINE $D
quiet pr --out --reserve --param-rk=$MINE --prout-type=1 $D
# The connection is cut; the same session logs in again, from the same port.
quiet ss -K dst ${A%:*} dport = ${A#*:}
lost() { dmesg | grep -q 'detected conn error'; }
within 60 lost
within 60 sg_turs $D
within 30 writes $D
shuts_out() { local code=0; writes "$1" || code=$?; [ $code = 24 ]; }
shuts_out $E || fail "a lost connection opened the disk"
# The holder logs out. Linux names a new port at each login: that one has no rights.
with_udev
logout $A
heard $E
shows "$MINE" pr --in --read-reservation $E
shuts_out $E || fail "the holder's logout opened the disk"
login $A
D=/dev/$(disk $A)
heard $D
shuts_out $D || fail "another port of the same initiator has the holder's rights"
# The way out that clusters take.
quiet pr --out --register --param-sark=$OTHER $D
quiet pr --out --preempt --param-rk=$OTHER --param-sark=$MINE --prout-type=1 $D
writes $D || fail "the new holder cannot write"
shows "$OTHER" pr --in --read-reservation $E
quiet pr --out --clear --param-rk=$OTHER $D
