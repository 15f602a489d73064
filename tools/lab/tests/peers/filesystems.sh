# What administrators put on a disk, and that it is there afterwards. KIND is ext4 or xfs; STEP is make
# or give-back.
device() { echo "/dev/$(disk $A)"; }
case $STEP in
make)
    clean; settings; daemon; record $A; login $A
    # The kernel must have believed the provisioning pages, or fstrim would do nothing.
    [ "$(cat "/sys/block/$(disk $A)/queue/discard_max_bytes")" -gt 0 ] || fail "no discard"
    case $KIND in
    ext4) ok mkfs.ext4 -q -F -E lazy_itable_init=0,lazy_journal_init=0 "$(device)" ;;
    xfs) ok mkfs.xfs -q -f "$(device)" ;;
    esac
    mkdir -p /mnt
    ok mount -t "$KIND" "$(device)" /mnt
    mkdir /mnt/keep
    # Both compress badly and are made anew on the other side of the remount.
    for n in 1 2 3 4 5 6 7 8; do
        dd if=/dev/urandom of=/mnt/keep/$n bs=256k count=$n 2>/dev/null || fail "write $n"
    done
    ok dd if=/dev/urandom of=/mnt/large bs=1M count=96 conv=fsync
    (cd /mnt/keep && sha256sum *) >/tmp/sums
    ok sync -f /mnt
    ;;
give-back)
    ok rm /mnt/large
    ok sync -f /mnt
    ok fstrim -v /mnt
    ok umount /mnt
    case $KIND in
    ext4) ok fsck.ext4 -f -n "$(device)" ;;
    xfs) ok xfs_repair -n "$(device)" ;;
    esac
    # Logged out and in: nothing of what is read now is in the guest's memory.
    logout $A; login $A
    ok mount -t "$KIND" "$(device)" /mnt
    (cd /mnt/keep && quiet sha256sum -c /tmp/sums)
    ok umount /mnt
    no_io_errors
    ;;
esac
