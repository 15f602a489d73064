//! What known initiators do in a login, as far as a target can tell them apart. Facts from their sources;
//! Windows is closed, so its profile is what is known of it.

/// How an initiator walks through the stages, and what it offers.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Its name, for people.
    pub name: &'static str,
    /// Begins with the security stage even when it has no credentials.
    pub security_always: bool,
    /// Sets T in every request, also in the middle of CHAP (iPXE).
    pub transit_always: bool,
    /// Goes from the security stage straight to the full feature phase, all keys in one request.
    pub one_stage: bool,
    /// AuthMethod when it has credentials.
    pub auth_method: &'static str,
    /// CHAP_A.
    pub chap_algorithms: &'static str,
    /// Operational keys, in order.
    pub keys: &'static [(&'static str, &'static str)],
}

/// iPXE, `src/net/tcp/iscsi.c`.
pub const IPXE: Profile = Profile {
    name: "iPXE",
    security_always: true,
    transit_always: true,
    one_stage: false,
    auth_method: "CHAP,None",
    chap_algorithms: "5",
    keys: &[
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("MaxConnections", "1"),
        ("InitialR2T", "Yes"),
        ("ImmediateData", "No"),
        ("MaxRecvDataSegmentLength", "8192"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "65536"),
        ("DefaultTime2Wait", "0"),
        ("DefaultTime2Retain", "0"),
        ("MaxOutstandingR2T", "1"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("ErrorRecoveryLevel", "0"),
    ],
};

/// Linux, open-iscsi `usr/login.c` with the defaults of `etc/iscsid.conf`.
pub const OPEN_ISCSI: Profile = Profile {
    name: "open-iscsi",
    security_always: false,
    transit_always: false,
    one_stage: false,
    auth_method: "CHAP",
    chap_algorithms: "5",
    keys: &[
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("ErrorRecoveryLevel", "0"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "16776192"),
        ("FirstBurstLength", "262144"),
        ("MaxOutstandingR2T", "1"),
        ("MaxConnections", "1"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("MaxRecvDataSegmentLength", "262144"),
    ],
};

/// Windows, as far as it is known.
pub const WINDOWS: Profile = Profile {
    name: "Windows",
    security_always: true,
    transit_always: false,
    one_stage: false,
    auth_method: "CHAP",
    chap_algorithms: "5",
    keys: &[
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("ErrorRecoveryLevel", "2"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxRecvDataSegmentLength", "65536"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "65536"),
        ("MaxConnections", "1"),
        ("DefaultTime2Wait", "0"),
        ("DefaultTime2Retain", "60"),
        ("MaxOutstandingR2T", "16"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
    ],
};

/// UEFI firmware, EDK2 `NetworkPkg/IScsiDxe`; the strictest. As Debian's OVMF 2022.11 sends it.
pub const EDK2: Profile = Profile {
    name: "EDK2",
    security_always: true,
    transit_always: false,
    one_stage: false,
    auth_method: "CHAP",
    chap_algorithms: "7,5",
    keys: &[
        ("HeaderDigest", "None"),
        ("DataDigest", "None"),
        ("ErrorRecoveryLevel", "0"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxRecvDataSegmentLength", "65536"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "65536"),
        ("MaxConnections", "1"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "20"),
        ("MaxOutstandingR2T", "1"),
    ],
};

/// libiscsi, which QEMU and the conformance suite use.
pub const LIBISCSI: Profile = Profile {
    name: "libiscsi",
    security_always: true,
    transit_always: false,
    one_stage: false,
    auth_method: "CHAP,None",
    chap_algorithms: "5,6,7,8",
    keys: &[
        ("HeaderDigest", "None,CRC32C"),
        ("DataDigest", "None"),
        ("InitialR2T", "No"),
        ("ImmediateData", "Yes"),
        ("MaxBurstLength", "262144"),
        ("FirstBurstLength", "262144"),
        ("DefaultTime2Wait", "2"),
        ("DefaultTime2Retain", "0"),
        ("IFMarker", "No"),
        ("OFMarker", "No"),
        ("MaxConnections", "1"),
        ("MaxOutstandingR2T", "1"),
        ("ErrorRecoveryLevel", "0"),
        ("DataPDUInOrder", "Yes"),
        ("DataSequenceInOrder", "Yes"),
        ("MaxRecvDataSegmentLength", "262144"),
    ],
};

/// Every known initiator.
pub const PROFILES: [&Profile; 5] = [&IPXE, &OPEN_ISCSI, &WINDOWS, &EDK2, &LIBISCSI];
