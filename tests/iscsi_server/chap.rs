//! CHAP in both directions, as configurations and commands make it.

use reveille::iscsi::initiator::ErrorKind;
use reveille::iscsi::initiator::offer::Offer;
use reveille::iscsi::initiator::profiles::PROFILES;
use reveille::iscsi::login::Credentials;

use super::common::TestHead;
use super::{connect, head_of, head_with, log_in, offer, read, refused};

pub(super) fn secret_of(head: &TestHead, node: &str) -> Credentials {
    secrets_of(head, node).0
}

/// A node's credentials, and the head's towards it.
pub(super) fn secrets_of(head: &TestHead, node: &str) -> (Credentials, Credentials) {
    let shown = head.good(&["node", "secret", node, "-o", "json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let field = |name: &str| shown[0][name].as_str().expect(name).to_owned();
    let credentials = |user: &str, secret: &str| Credentials {
        user: field(user),
        secret: field(secret).into_bytes(),
    };
    (
        credentials("user", "secret"),
        credentials("head_user", "head_secret"),
    )
}

#[tokio::test]
async fn chap_lets_the_right_secret_in_and_no_other() {
    let head = head_with("chap", &[("n1", "ephemeral"), ("n2", "ephemeral")]);
    let (first, second) = (secret_of(&head, "n1"), secret_of(&head, "n2"));
    assert_ne!(first.secret, second.secret);
    for algorithms in ["5", "6", "7", "8", "7,5", "5,6,7,8"] {
        let mut right = offer("n1", 1);
        right.profile.chap_algorithms = algorithms;
        right.chap = Some(first.clone());
        let mut session = log_in(&head, right).await;
        assert_eq!(read(&mut session, 0..8).await.len(), 4096);
    }
    let wrong = Credentials {
        secret: b"0123456789abcdef".to_vec(),
        ..first.clone()
    };
    let other_user = Credentials {
        user: "n2".into(),
        ..first.clone()
    };
    for (chap, why) in [
        (Some(wrong), "wrong secret"),
        (Some(other_user), "the secret of n1 under the name of n2"),
        (Some(second), "n2 may not use the disk of n1"),
        (None, "no credentials"),
    ] {
        let status = refused(
            &head,
            Offer {
                chap,
                ..offer("n1", 2)
            },
        )
        .await;
        assert_eq!(status, 0x0201, "{why}");
    }
    let nobody = Offer {
        chap: Some(first.clone()),
        ..offer("n9", 2)
    };
    assert_eq!(
        refused(&head, nobody).await,
        0x0201,
        "an unknown target looks like a wrong secret"
    );
}

#[tokio::test]
async fn every_initiator_is_shown_that_the_head_is_the_head() {
    for auth in ["mutual", "chap"] {
        let head = head_with(auth, &[("n1", "ephemeral"), ("n2", "ephemeral")]);
        let (own, proof) = secrets_of(&head, "n1");
        let (_, of_other) = secrets_of(&head, "n2");
        assert!(own.secret != proof.secret && proof.secret != of_other.secret);
        for profile in PROFILES {
            for algorithms in ["5", "6", "7", "8"] {
                let mut demanding = Offer {
                    chap: Some(own.clone()),
                    mutual: Some(proof.clone()),
                    entropy: [7; 33],
                    profile: *profile,
                    ..offer("n1", 1)
                };
                demanding.profile.chap_algorithms = algorithms;
                let mut session = log_in(&head, demanding).await;
                assert_eq!(read(&mut session, 0..8).await.len(), 4096);
            }
        }
        // The secret towards another node is no proof to this one.
        let cheated = Offer {
            chap: Some(own.clone()),
            mutual: Some(of_other),
            entropy: [7; 33],
            ..offer("n1", 2)
        };
        let kind = connect(&head, cheated).await.map_err(|e| e.kind());
        assert_eq!(kind.unwrap_err(), ErrorKind::Untrusted);
        // One that does not ask is let in: the proof protects who asks for it, and nobody else.
        let plain = Offer {
            chap: Some(own),
            ..offer("n1", 3)
        };
        let mut session = log_in(&head, plain).await;
        assert_eq!(read(&mut session, 0..8).await.len(), 4096);
    }
}

#[tokio::test]
async fn new_secrets_end_the_old_ones_in_both_directions() {
    let head = head_with("mutual", &[("n1", "ephemeral")]);
    let (own, proof) = secrets_of(&head, "n1");
    head.good(&["node", "set", "n1", "--new-secret"]);
    let (new_own, new_proof) = secrets_of(&head, "n1");
    let with = |chap: &Credentials, mutual: &Credentials| Offer {
        chap: Some(chap.clone()),
        mutual: Some(mutual.clone()),
        entropy: [9; 33],
        ..offer("n1", 1)
    };
    assert_eq!(refused(&head, with(&own, &proof)).await, 0x0201);
    let kind = connect(&head, with(&new_own, &proof))
        .await
        .map_err(|e| e.kind());
    assert_eq!(kind.unwrap_err(), ErrorKind::Untrusted);
    let mut session = log_in(&head, with(&new_own, &new_proof)).await;
    assert_eq!(read(&mut session, 0..8).await.len(), 4096);
    let log = head.log();
    for secret in [own, proof, new_own, new_proof] {
        let text = String::from_utf8(secret.secret).unwrap();
        assert!(!log.contains(&text), "a secret in the log");
    }
}

#[tokio::test]
async fn a_digest_that_the_configuration_leaves_out_is_refused() {
    let config = "[iscsi]\nlisten = [\"127.0.0.1:0\"]\nauth = \"mutual\"\n\
                  chap_algorithms = [\"sha256\", \"sha3-256\"]\n";
    let head = head_of(config, &[("n1", "ephemeral")]);
    let (own, proof) = secrets_of(&head, "n1");
    let mut asking = Offer {
        chap: Some(own),
        mutual: Some(proof),
        entropy: [7; 33],
        ..offer("n1", 1)
    };
    for (algorithms, good) in [("5", false), ("5,6", false), ("8,7", true), ("5,8", true)] {
        asking.profile.chap_algorithms = algorithms;
        if good {
            let _ = log_in(&head, asking.clone()).await;
        } else {
            assert_eq!(refused(&head, asking.clone()).await, 0x0201);
        }
    }
}

#[tokio::test]
async fn mutual_chap_is_never_pretended() {
    let head = head_with("chap", &[("n1", "ephemeral")]);
    let demanding = Offer {
        chap: Some(secret_of(&head, "n1")),
        mutual: Some(Credentials {
            user: "head".into(),
            secret: b"fedcba9876543210".to_vec(),
        }),
        entropy: [7; 33],
        ..offer("n1", 1)
    };
    let kind = connect(&head, demanding)
        .await
        .map_err(|e| e.kind())
        .unwrap_err();
    assert_eq!(kind, ErrorKind::Untrusted, "that is not the head's secret");
}
