# Header and data digests on, in both directions.
clean
settings 'node.conn[0].iscsi.HeaderDigest=CRC32C' 'node.conn[0].iscsi.DataDigest=CRC32C'
daemon; record $A; login $A
shows 'HeaderDigest: CRC32C' iscsiadm -m session -P 2
shows 'DataDigest: CRC32C' iscsiadm -m session -P 2
ok verified "/dev/$(disk $A)" 64 11
# What was written is there for a session without digests, too.
sum=$(dd if="/dev/$(disk $A)" bs=1M count=64 iflag=direct 2>/dev/null | sha256sum)
logout $A
settings 'node.conn[0].iscsi.HeaderDigest=None' 'node.conn[0].iscsi.DataDigest=None'
record $A; login $A
shows 'DataDigest: None' iscsiadm -m session -P 2
[ "$sum" = "$(dd if="/dev/$(disk $A)" bs=1M count=64 iflag=direct 2>/dev/null | sha256sum)" ] ||
    fail "the bytes differ without digests"
if dmesg | grep -iE 'digest|conn error|detected conn'; then fail "the kernel complains"; fi
no_io_errors
