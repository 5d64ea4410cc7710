//! Identities and trust from files: the files that are read, those that are refused, and whether the message names file and fix.

mod tls_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use stoq::tls::{
    CertificateSummary, FalconAlgorithm, Identity, NewIdentity, PemText, SignedMessage, Trust, TrustFiles,
    write_key_and,
};
use tempfile::TempDir;
use tls_support::authority::Authority;
use x509_cert::der::{DecodePem, Encode};
use x509_cert::request::CertReq;

const FALCON: FalconAlgorithm = FalconAlgorithm::FalconPadded512;

struct Files {
    _directory: TempDir,
    certificate: PathBuf,
    key: PathBuf,
    new: NewIdentity,
}

fn text<'a>(path: &'a Path, text: &'a (impl AsRef<[u8]> + ?Sized)) -> PemText<'a> {
    PemText { path, text: text.as_ref() }
}

fn files() -> Files {
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("node.crt"), directory.path().join("node.key"));
    let names = ["192.0.2.1".to_owned(), "2001:db8::1".into(), "node.example".into()];
    let new = Identity::generate(FALCON, "node \"one\", +1", &names, 30).unwrap();
    write_key_and(text(&key, &*new.key_pem), text(&certificate, &new.certificate_pem)).unwrap();
    Files { _directory: directory, certificate, key, new }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, stoq::tls::TlsError>, file: &Path, part: &str) {
    let text = result.unwrap_err().to_string();
    assert!(text.contains(&file.display().to_string()), "{text:?} does not name {file:?}");
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[test]
fn an_identity_is_written_for_its_owner_alone_and_read_back() {
    let files = files();
    assert_eq!(fs::metadata(&files.key).unwrap().permissions().mode() & 0o777, 0o600);
    let loaded = Identity::load(&files.certificate, &files.key).unwrap();
    assert_eq!(loaded.node_id(), files.new.identity.node_id());
    assert_eq!(loaded.chain(), files.new.identity.chain());
    assert_eq!(loaded.chain().len(), 1);
}

#[test]
fn a_summary_has_the_fields_of_the_certificate() {
    let files = files();
    let summary = files.new.identity.summary().unwrap();
    assert_eq!(summary.node_id, files.new.identity.node_id());
    assert_eq!(summary.algorithm, "falconpadded512");
    assert_eq!(summary.subject, summary.issuer);
    assert!(summary.subject.contains("node"));
    assert_eq!(summary.alternative_names, ["192.0.2.1", "2001:db8::1", "node.example"]);
    assert!(summary.not_before < summary.not_after);
    assert!(summary.to_string().contains(&summary.fingerprint));
}

#[test]
fn existing_files_are_not_overwritten() {
    let files = files();
    let before = fs::read(&files.key).unwrap();
    let elsewhere = files.key.with_file_name("other.crt");
    assert_refused(
        write_key_and(text(&files.key, "x"), text(&elsewhere, "y")),
        &files.key,
        "not overwritten",
    );
    assert!(!elsewhere.exists());
    let new_key = files.key.with_file_name("other.key");
    assert_refused(
        write_key_and(text(&new_key, "x"), text(&files.certificate, "y")),
        &files.certificate,
        "not overwritten",
    );
    assert!(!new_key.exists(), "a key without its certificate was left");
    assert_eq!(fs::read(&files.key).unwrap(), before);
}

#[test]
fn a_key_open_to_others_is_refused() {
    let files = files();
    for (mode, open) in [(0o644, true), (0o604, true), (0o660, true), (0o640, false), (0o400, false)] {
        fs::set_permissions(&files.key, fs::Permissions::from_mode(mode)).unwrap();
        let loaded = Identity::load(&files.certificate, &files.key);
        if open {
            assert_refused(loaded, &files.key, "chmod 600");
        } else {
            loaded.unwrap();
        }
    }
}

#[test]
fn missing_and_mistaken_files_are_named_with_the_fix() {
    let files = files();
    let nowhere = files.key.with_file_name("nowhere");
    assert_refused(Identity::load(&nowhere, &files.key), &nowhere, "check the path");
    assert_refused(Identity::load(&files.certificate, &nowhere), &nowhere, "check the path");
    assert_refused(Identity::load(&files.key, &files.key), &files.key, "this is the key");
    fs::set_permissions(&files.certificate, fs::Permissions::from_mode(0o600)).unwrap();
    assert_refused(
        Identity::load(&files.certificate, &files.certificate),
        &files.certificate,
        "this is the certificate",
    );
    let key = String::from_utf8(fs::read(&files.key).unwrap()).unwrap();
    for (text, part) in [
        (key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), "decrypt it"),
        ("nothing".into(), "no PEM at all"),
        (key.replace("-----END", "-----NOEND"), "damaged PEM"),
        (key.replacen("MI", "!!", 1), "damaged PEM"),
    ] {
        fs::write(&files.key, text).unwrap();
        assert_refused(Identity::load(&files.certificate, &files.key), &files.key, part);
    }
}

#[test]
fn a_pem_text_is_read_the_same_in_every_encoding_and_layout() {
    let files = files();
    let loaded = Identity::load(&files.certificate, &files.key).unwrap();
    type Way = (&'static str, fn(&str) -> Vec<u8>);
    let ways: [Way; 9] = [
        ("OpenSSL's first label", |text| text.replace(" CERTIFICATE", " X509 CERTIFICATE").into()),
        ("byte order mark", |text| [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("CRLF", |text| text.replace('\n', "\r\n").into()),
        ("CR", |text| text.replace('\n', "\r").into()),
        ("indentation", |text| text.lines().map(|line| format!("    {line}\n")).collect::<String>().into()),
        ("blanks behind", |text| text.lines().map(|line| format!("{line} \t\n")).collect::<String>().into()),
        ("text around", |text| format!("a comment\n\n{text}\nmore\n").into()),
        ("no line end at the end", |text| text.trim_end().into()),
        ("UTF-16", |text| {
            [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
        }),
    ];
    let (certificate, key) =
        (fs::read_to_string(&files.certificate).unwrap(), fs::read_to_string(&files.key).unwrap());
    for (way, change) in ways {
        fs::write(&files.certificate, change(&certificate)).unwrap();
        fs::write(&files.key, change(&key)).unwrap();
        let again = Identity::load(&files.certificate, &files.key);
        assert_eq!(
            again.map(|again| again.node_id()).map_err(|error| (way, error)).unwrap(),
            loaded.node_id()
        );
    }
    // Both in one file, in either order.
    for text in [certificate.clone() + &key, key.clone() + &certificate] {
        fs::write(&files.key, text).unwrap();
        assert_eq!(Identity::load(&files.key, &files.key).unwrap().node_id(), loaded.node_id());
    }
}

#[test]
fn a_message_never_contradicts_itself_and_never_begins_with_a_new_identity() {
    let files = files();
    let (certificate, key) =
        (fs::read_to_string(&files.certificate).unwrap(), fs::read_to_string(&files.key).unwrap());
    let cases: &[(&[u8], &str)] = &[
        (b"", "the file is empty"),
        (b"\x30\x82\x08\x96", "if it is DER"),
        (&key.as_bytes()[..key.len() / 2], "cut short"),
        (certificate.as_bytes(), "this is the certificate"),
        (key.replace('\n', "\\n").as_bytes().to_vec().leak(), "line ends are written as"),
        (format!("key: {key}").into_bytes().leak(), "BEGIN does not stand on a line of its own"),
        (key.replace("PRIVATE", "PUBLIC").into_bytes().leak(), "this is the public key"),
    ];
    for (text, part) in cases {
        fs::write(&files.key, text).unwrap();
        assert_refused(Identity::load(&files.certificate, &files.key), &files.key, part);
        let error = Identity::load(&files.certificate, &files.key).unwrap_err().to_string();
        assert!(!error.contains("identity new"), "{error}");
        let (wanted, found) = error.split_once("there is ").unwrap_or((&error, ""));
        assert!(
            !(wanted.contains("BEGIN PRIVATE KEY") && found.contains("\"BEGIN PRIVATE KEY\"")),
            "{error}"
        );
    }
    // The fault of a certificate that is given as the key is not its permissions.
    fs::set_permissions(&files.certificate, fs::Permissions::from_mode(0o644)).unwrap();
    assert_refused(
        Identity::load(&files.certificate, &files.certificate),
        &files.certificate,
        "this is the certificate",
    );
}

#[test]
fn a_key_is_certified_again_under_the_same_node_id() {
    let files = files();
    let before = Identity::load(&files.certificate, &files.key).unwrap();
    let (pem, node_id) = Identity::renew(&files.key, "again", &[], 3).unwrap();
    assert_eq!(node_id, before.node_id());
    let key = fs::read(&files.key).unwrap();
    let after = Identity::from_pem(text(&files.certificate, &pem), text(&files.key, &key)).unwrap();
    assert_eq!((after.node_id(), after.summary().unwrap().subject), (node_id, "CN=again".into()));
    let (pem, node_id) = Identity::renewal_request(&files.key, "again", &[]).unwrap();
    assert!(pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----") && node_id == before.node_id());
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (one, two) = (files(), files());
    assert_refused(
        Identity::load(&one.certificate, &two.key),
        &two.key,
        "does not belong to the first certificate",
    );
}

#[test]
fn a_classical_identity_is_no_main_identity_and_the_other_way_round() {
    let files = files();
    assert_refused(
        Identity::load_classical(&files.certificate, &files.key),
        &files.key,
        "no ECDSA or Ed25519 key",
    );
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let pair = rcgen::KeyPair::generate_for(algorithm).unwrap();
        let certificate = rcgen::CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap();
        fs::write(&files.key, pair.serialize_pem()).unwrap();
        assert_refused(
            Identity::load_classical(&files.certificate, &files.key),
            &files.certificate,
            "does not belong",
        );
        fs::write(&files.certificate, certificate.pem()).unwrap();
        assert_refused(Identity::load(&files.certificate, &files.key), &files.key, "this is not Falcon");
        Identity::load_classical(&files.certificate, &files.key).unwrap();
    }
}

#[test]
fn a_chain_goes_out_without_its_root() {
    let root = Authority::new("root", FALCON);
    let node = root.intermediate("intermediate").issue("node");
    assert_eq!(node.chain().len(), 2);
    let key = stoq::tls::FalconKey::generate(FALCON).unwrap();
    let leaf = tls_support::authority::self_signed("node", &key);
    let whole = vec![leaf.clone(), node.chain()[1].clone(), root.certificate.clone()];
    assert_eq!(Identity::new(whole, key).unwrap().chain(), [leaf, node.chain()[1].clone()]);
}

#[test]
fn a_request_is_signed_by_the_key_that_it_is_for() {
    let request = Identity::request(FALCON, "node", &["node.example".into()]).unwrap();
    let parsed = CertReq::from_pem(&request.request_pem).unwrap();
    let info = parsed.info.to_der().unwrap();
    let public = parsed.info.public_key.subject_public_key.raw_bytes();
    assert!(FALCON.verify(public, SignedMessage { message: &info, signature: parsed.signature.raw_bytes() }));
    assert_eq!(parsed.algorithm.oid, FALCON.oid());
    let key_info = parsed.info.public_key.to_der().unwrap();
    assert_eq!(stoq::tls::NodeId::from_public_key_info(&key_info), request.node_id);
}

#[test]
fn names_and_lifetimes_that_no_certificate_can_carry_are_refused() {
    assert!(Identity::generate(FALCON, "", &[], 30).is_err());
    assert!(Identity::generate(FALCON, &"x".repeat(65), &[], 30).is_err());
    assert!(Identity::generate(FALCON, "node", &["not a name".into()], 30).is_err());
    assert!(Identity::generate(FALCON, "node", &[], 0).is_err());
    assert!(Identity::generate(FALCON, "node", &[], u32::MAX).is_err());
    assert!(Identity::generate(FalconAlgorithm::Falcon512, "node", &[], 30).is_err());
}

#[test]
fn empty_trust_and_damaged_bundles_are_refused() {
    let authorities = |file| TrustFiles { ca: Some(file), ..TrustFiles::default() };
    assert!(Trust::load(&TrustFiles::default()).unwrap_err().to_string().contains("no peer is trusted"));
    let files = files();
    Trust::load(&authorities(&files.certificate)).unwrap();
    assert_refused(Trust::load(&authorities(&files.key)), &files.key, "give the certificate file");
    let text = format!(
        "{}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        files.new.certificate_pem
    );
    fs::write(&files.certificate, text).unwrap();
    assert_refused(
        Trust::load(&authorities(&files.certificate)),
        &files.certificate,
        "certificate number 2: malformed certificate (trailing data (signed data))",
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn random_bytes_as_pem_or_der_are_refused_without_panic(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        at in 0usize..3000,
        with: u8,
    ) {
        let path = Path::new("random");
        prop_assert!(Identity::from_pem(text(path, &bytes), text(path, &bytes)).is_err());
        prop_assert!(CertificateSummary::of(&bytes.clone().into()).is_err());
        prop_assert!(Trust::new(&[bytes.into()], []).is_err());

        static NEW: std::sync::LazyLock<NewIdentity> =
            std::sync::LazyLock::new(|| Identity::generate(FALCON, "node", &[], 30).unwrap());
        let mut key = NEW.key_pem.as_bytes().to_vec();
        let mut certificate = NEW.certificate_pem.as_bytes().to_vec();
        let (in_key, in_certificate) = (at % key.len(), at % certificate.len());
        key[in_key] = with;
        certificate[in_certificate] = with;
        let _ = Identity::from_pem(text(path, &NEW.certificate_pem), text(path, &key));
        let _ = Identity::from_pem(text(path, &certificate), text(path, &*NEW.key_pem));
        let mut der = NEW.identity.chain()[0].to_vec();
        let in_der = at % der.len();
        der[in_der] = with;
        let _ = CertificateSummary::of(&der.clone().into());
        let _ = Trust::new(&[der.into()], []);
    }
}
