# Logging in and out again and again; a port that comes back; an iscsid that is killed.
clean; settings; daemon; record $A; record $B
login $A
wwid=$(wwid $A)
logout $A
without_udev
disks() { ls /sys/class/iscsi_session/session*/device/target*/*:*/block 2>/dev/null | grep '^sd'; }
has_disks() { [ "$(disks | wc -l)" = "$1" ]; }
for round in $(seq 1 $ROUNDS); do
    ways=1
    quiet iscsiadm -m node -T "$TARGET" -p $A --login
    if [ $((round % 10)) = 0 ]; then
        ways=2
        quiet iscsiadm -m node -T "$TARGET" -p $B --login
    fi
    within 60 has_disks $ways
    for disk in $(disks); do
        [ "$(tr -d '\0' <"/sys/block/$disk/device/wwid")" = "$wwid" ] || fail "round $round: another disk"
        quiet dd if="/dev/$disk" of=/dev/null bs=4k count=1 iflag=direct
    done
    quiet iscsiadm -m node -T "$TARGET" --logout
    within 30 no_session
done
with_udev
no_io_errors
echo "$ROUNDS rounds"

# Two sessions side by side are two ports of one initiator on one disk.
login $A; login $B
[ "$(ls /sys/class/iscsi_session | wc -l)" = 2 ] || fail "not two sessions"
[ "$(disk $A)" != "$(disk $B)" ] || fail "not two disks"
[ "$(wwid $B)" = "$wwid" ] || fail "the second way shows another disk"
mark=$(date +%s%N)
printf '%-512s' "$mark" | dd of="/dev/$(disk $A)" bs=512 oflag=direct conv=notrunc 2>/dev/null
dd if="/dev/$(disk $B)" bs=512 count=1 iflag=direct 2>/dev/null | grep -q "$mark" || fail "the ways differ"

# iscsid dies; the sessions live on in the kernel, a new iscsid takes them over, and both go on.
# Local addresses of open connections to port 3260 (0CBCh).
connections() { awk '$3 ~ /:0CBC$/ && $4 == "01" { print $2 }' /proc/net/tcp; }
before=$(connections)
[ "$(echo "$before" | wc -l)" = 2 ] || fail "not two connections"
pkill -9 -x iscsid; within 20 no_iscsid
dd if="/dev/$(disk $A)" bs=512 count=1 iflag=direct 2>/dev/null | grep -q "$mark" || fail "the disk hangs on iscsid"
daemon
taken_over() { [ "$(iscsiadm -m session | grep -c "$TARGET")" = 2 ]; }
within 60 taken_over
within 60 dd if="/dev/$(disk $B)" of=/dev/null bs=512 count=1 iflag=direct
# It takes a session over by logging in again from the same port: reinstatement. Each has a new connection then.
reinstated() { [ "$(connections | wc -l)" = 2 ] && [ -z "$(connections | grep -Fx "$before")" ]; }
within 90 reinstated
all_in() { [ "$(cat /sys/class/iscsi_session/session*/state | sort -u)" = LOGGED_IN ]; }
within 60 all_in
within 60 dd if="/dev/$(disk $A)" of=/dev/null bs=512 count=1 iflag=direct
no_io_errors
# A session that is told to log in while it is: refused by iscsiadm as already there (15).
ends 15 iscsiadm -m node -T "$TARGET" -p $A --login
