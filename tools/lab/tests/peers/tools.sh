# sg3-utils: what the disk says of itself, and every command that administrators and file systems use.
clean; settings; daemon; record $A; record $B; login $A; login $B
D=/dev/$(disk $A) E=/dev/$(disk $B)
pattern() { yes "$1" | head -c "$2"; }
bytes() { dd if="$1" bs=512 skip="$2" count="$3" iflag=direct 2>/dev/null; }
zeros() { head -c "$1" /dev/zero; }

echo "== identity"
shows 'Vendor identification: REVEILLE' sg_inq $D
shows 'Product identification: Virtual disk' sg_inq $D
pages=$(sg_vpd --raw -p 0 $D | od -An -v -tx1 -j4 | tr -s ' \n' '  ')
echo "pages:$pages"
case $pages in *" 00"*" 80"*" 83"*" b0"*" b1"*" b2"*) ;; *) fail "pages are missing" ;; esac
for page in $pages; do ok sg_vpd -p 0x$page $D; done
ends 5 sg_raw -r 64 $D 12 01 b9 00 40 00
for page in 0x80 di_lu; do
    [ "$(sg_vpd -q -p $page $D)" = "$(sg_vpd -q -p $page $E)" ] || fail "the two ways differ in page $page"
done
[ "$(sg_vpd -q -p di_port $D)" = "$(sg_vpd -q -p di_port $E)" ] || echo "(two target ports)"
shows 'lbpme=1, lbprz=1' sg_readcap -l $D
shows 'Logical block length=512 bytes' sg_readcap -l $D
[ "$(blockdev --getsize64 $D)" = "$SIZE" ] || fail "the disk has $(blockdev --getsize64 $D) bytes"
ok sg_luns $D
shows 'Lun list length = 8' sg_luns $D
ok sg_turs $D; ok sg_requests $D; ok sg_logs -L $D; ok sg_modes -a $D; ok sg_start --start $D
ok sg_opcodes $D
shows 'Inquiry' sg_opcodes $D
shows 'supported' sg_opcodes --opcode=0x93 $D
ok sg_opcodes --mask --opcode=0x89 $D
shows 'Logical unit reset' sg_opcodes --tmf $D

echo "== data"
pattern one 65536 >/tmp/one; pattern two 512 >/tmp/two
dd if=/tmp/one of=$D bs=64k seek=1 count=1 oflag=direct conv=notrunc 2>/dev/null || fail "write"
ok sg_sync $D
ok sg_verify --lba=128 --count=128 $D
ok sg_verify --16 --lba=128 --count=128 $D
ok sg_verify --lba=128 --count=8 --ndo=4096 --in=/tmp/one $D
ends 14 sg_verify --lba=136 --count=1 --ndo=512 --in=/tmp/two $D
bytes $E 128 128 | cmp - /tmp/one || fail "the other way reads something else"
for form in --10 --16; do
    ok sg_write_same $form --lba=512 --num=64 --in=/tmp/two $D
    bytes $D 512 64 | cmp - <(for n in $(seq 64); do cat /tmp/two; done) || fail "WRITE SAME $form"
    ok sg_write_same $form --unmap --lba=512 --num=64 --in=/dev/zero --xferlen=512 $D
    bytes $D 512 64 | cmp - <(zeros 32768) || fail "WRITE SAME $form with UNMAP"
done
dd if=/tmp/one of=$D bs=64k seek=16 count=16 oflag=direct conv=notrunc 2>/dev/null
dd if=<(pattern three 1048576) of=$D bs=1M seek=1 count=1 iflag=fullblock oflag=direct conv=notrunc 2>/dev/null
shows 'mapped' sg_get_lba_status --lba=2048 $D
ok sg_unmap --lba=2048 --num=2048 --force $D
shows 'deallocated' sg_get_lba_status --lba=2048 $D
bytes $D 2048 2048 | cmp - <(zeros 1048576) || fail "what was unmapped is not zero"
pattern three 512 >/tmp/three
{ bytes $D 2048 1; cat /tmp/three; } >/tmp/pair
ok sg_compare_and_write --in=/tmp/pair --lba=2048 --num=1 $D
bytes $E 2048 1 | cmp - /tmp/three || fail "COMPARE AND WRITE did not write"
ends 14 sg_compare_and_write --in=/tmp/pair --lba=2048 --num=1 $E
ends 22 sg_raw -r 512 $D 28 00 7f ff ff ff 00 00 01 00

echo "== refused"
before=$(bytes $D 128 128 | sha256sum)
for attempt in "sg_format --format --quick" "sg_sanitize --overwrite --pattern=/tmp/two --quick" \
    "sg_sanitize --block --quick" "sg_sanitize --crypto --quick"; do
    code=0
    $attempt $D || code=$?
    case $code in 5 | 9) echo "[$code] $attempt" ;; *) fail "exit $code of: $attempt" ;; esac
done
[ "$before" = "$(bytes $D 128 128 | sha256sum)" ] || fail "a refused command changed the disk"
ok sg_turs $D

echo "== resets"
ok sg_reset -d $D
within 30 sg_turs $D; within 30 sg_turs $E
bytes $D 128 128 | cmp - /tmp/one || fail "after a reset"
no_io_errors
