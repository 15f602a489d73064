# Discovery and login: only the node's own name and secret, each algorithm that open-iscsi knows.
# In both directions: the head proves itself, too, when it is asked to.
clean; settings; daemon
discover() { iscsiadm -m discovery -t st -p "$1"; }

# The portal that was asked, perhaps the other one too, and nobody else's target (there is another node).
for portal in $A $B; do
    discover $portal >/tmp/found || fail "discovery at $portal"
    grep -qx "$portal,1 $TARGET" /tmp/found || fail "$portal did not tell its target: $(cat /tmp/found)"
    if grep -vxE "($A|$B),1 $TARGET" /tmp/found; then fail "more was told than is this node's"; fi
done

# 24: refused for its secret.
settings discovery.sendtargets.auth.password=wrong-secret-here
ends 24 discover $A
settings discovery.sendtargets.auth.authmethod=None discovery.sendtargets.auth.username= \
    discovery.sendtargets.auth.password=
ends 24 discover $A
settings
pkill -9 -x iscsid; within 20 no_iscsid
daemon iqn.2026-11.internal.reveille:stranger
ends 24 discover $A
pkill -9 -x iscsid; within 20 no_iscsid
daemon

# mutual PREFIX [KEY=VALUE...]: the head must prove itself, too.
mutual() {
    settings "$1.auth.username_in=$HEAD_USER" "$1.auth.password_in=$HEAD_SECRET" "${@:2}"
}
mutual discovery.sendtargets
discover $A | grep -qx "$A,1 $TARGET" || fail "discovery with mutual CHAP"
mutual discovery.sendtargets discovery.sendtargets.auth.password_in=not-the-heads---
if discover $A; then fail "a head with a wrong secret was believed at discovery"; fi

for algorithm in MD5 SHA1 SHA256 SHA3-256; do
    settings node.session.auth.chap_algs=$algorithm
    record $A; login $A
    quiet dd if="$(by_path $A)" of=/dev/null bs=64k count=4 iflag=direct
    logout $A
    settings node.session.auth.chap_algs=$algorithm node.session.auth.password=not-the-secret-
    record $A
    ends 24 iscsiadm -m node -T "$TARGET" -p $A --login
    mutual node.session node.session.auth.chap_algs=$algorithm
    record $A; login $A
    quiet dd if="$(by_path $A)" of=/dev/null bs=64k count=4 iflag=direct
    logout $A
    for wrong in password_in=not-the-heads--- username_in=nobody; do
        mutual node.session node.session.auth.chap_algs=$algorithm "node.session.auth.$wrong"
        record $A
        # The initiator itself hangs up: it is no refusal of the head's.
        if iscsiadm -m node -T "$TARGET" -p $A --login; then fail "a head with a wrong $wrong was believed"; fi
        no_session || fail "a session is left after a wrong $wrong"
    done
    echo "$algorithm: the right secrets and no others"
done
settings node.session.auth.authmethod=None node.session.auth.username= node.session.auth.password=
record $A
ends 24 iscsiadm -m node -T "$TARGET" -p $A --login
