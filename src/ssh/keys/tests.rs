//! Keys made by `ssh-keygen` and `openssl`, whole, broken and mistaken.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::ecdsa::EcdsaSig;
use openssl::hash::{MessageDigest, hash};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey};
use openssl::rsa::Rsa;
use openssl::sign::Verifier;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const ED25519: &str = "ssh-keygen -q -t ed25519 -N '' -C me -f k";
const RSA: &str = "ssh-keygen -q -t rsa -b 2048 -N '' -C me -f k";

/// A directory in which a shell script made key files.
struct Keys(TempDir);

impl Keys {
    fn made_by(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = Self(dir);
        keys.run(script);
        keys
    }

    fn run(&self, script: &str) -> String {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(self.0.path())
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {stderr}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn read(&self, name: &str) -> Result<KeyFile, KeyError> {
        read(&self.path(name))
    }

    fn key(&self, name: &str) -> UserKey {
        self.read(name).unwrap().unlock(None).unwrap()
    }

    fn problem(&self, name: &str) -> KeyProblem {
        problem(self.read(name).map(drop))
    }

    fn content(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    /// The error's text, with the directory left out.
    fn message(&self, error: &KeyError) -> String {
        error
            .to_string()
            .replace(&format!("{}/", self.0.path().display()), "")
    }

    /// Compares the key with what `k.pub` and ssh-keygen say about it.
    fn check(&self, name: &str, key: &UserKey) {
        let line = fs::read_to_string(self.path("k.pub")).unwrap();
        let mut words = line.split(' ');
        assert_eq!(words.next(), Some(key.algorithm()), "{name}");
        let blob = words.next().unwrap().trim();
        assert_eq!(STANDARD.encode(key.public_blob()), blob, "{name}");
        let listed = self.run("ssh-keygen -l -f k.pub");
        assert_eq!(listed.split(' ').nth(1), Some(key.fingerprint()), "{name}");
        assert_eq!(key.path(), self.path(name));
        assert_signs(key);
    }

    /// Checks the encrypted file `name` whose passphrase is `secret`.
    fn check_encrypted(&self, name: &str) {
        let file = self
            .read(name)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(file.is_encrypted(), "{name}");
        let message = |passphrase| self.message(&file.unlock(passphrase).unwrap_err());
        let invalid = format!("invalid passphrase for private key '{name}'");
        let long = "long".repeat(999);
        for wrong in ["", "Secret", "secret ", &long] {
            assert_eq!(message(Some(wrong)), invalid);
        }
        assert_eq!(
            message(None),
            format!("can't use private key '{name}': it is encrypted and needs its passphrase")
        );
        let key = file
            .unlock(Some("secret"))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        self.check(name, &key);
        assert_eq!(file.public_blob(), Some(key.public_blob()), "{name}");
    }
}

/// Verifies an ECDSA signature as SSH writes it: two numbers (RFC 5656 section 3.1.2).
fn assert_is_ecdsa(curve: &[u8], point: &[u8], mut signature: &[u8], text: &[u8]) {
    let (curve, digest) = match curve {
        b"nistp256" => (Nid::X9_62_PRIME256V1, MessageDigest::sha256()),
        b"nistp384" => (Nid::SECP384R1, MessageDigest::sha384()),
        _ => (Nid::SECP521R1, MessageDigest::sha512()),
    };
    let group = EcGroup::from_curve_name(curve).unwrap();
    let mut context = BigNumContext::new().unwrap();
    let point = EcPoint::from_bytes(&group, point, &mut context).unwrap();
    let public = EcKey::from_public_key(&group, &point).unwrap();
    let mut number = || BigNum::from_slice(problem::string(&mut signature).unwrap()).unwrap();
    let numbers = EcdsaSig::from_private_components(number(), number()).unwrap();
    let digest = hash(digest, text).unwrap();
    assert!(numbers.verify(&digest, &public).unwrap());
}

/// Checks a signature of each algorithm of the key with its public half.
fn assert_signs(key: &UserKey) {
    let text = b"what a login signs";
    let mut parts = key.public_blob();
    let mut part = || problem::string(&mut parts).unwrap();
    part();
    let signed = |algorithm: &str| key.sign(algorithm.as_bytes(), text).unwrap();
    match key.algorithm() {
        "ssh-ed25519" => {
            let public = PKey::public_key_from_raw_bytes(part(), Id::ED25519).unwrap();
            let mut verifier = Verifier::new_without_digest(&public).unwrap();
            let signature = signed("ssh-ed25519");
            assert!(verifier.verify_oneshot(&signature, text).unwrap());
        }
        "ssh-rsa" => {
            let mut number = || BigNum::from_slice(part()).unwrap();
            let (e, n) = (number(), number());
            let public = Rsa::from_public_components(n, e).unwrap();
            let length = public.size();
            let public = PKey::from_rsa(public).unwrap();
            for (algorithm, digest) in [
                ("rsa-sha2-512", MessageDigest::sha512()),
                ("rsa-sha2-256", MessageDigest::sha256()),
                ("ssh-rsa", MessageDigest::sha1()),
            ] {
                let mut verifier = Verifier::new(digest, &public).unwrap();
                let signature = signed(algorithm);
                assert_eq!(signature.len(), length as usize);
                assert!(verifier.verify_oneshot(&signature, text).unwrap());
            }
        }
        algorithm => assert_is_ecdsa(part(), part(), &signed(algorithm), text),
    }
    for other in ["ssh-dss", "ecdsa-sha2-nistp224", "", "junk"] {
        assert_eq!(key.sign(other.as_bytes(), text), None, "{other}");
    }
}

fn put_string(buffer: &mut Vec<u8>, string: &[u8]) {
    buffer.extend((string.len() as u32).to_be_bytes());
    buffer.extend(string);
}

fn problem(result: Result<(), KeyError>) -> KeyProblem {
    match result.unwrap_err() {
        KeyError::Unusable { problem, .. } => problem,
        error => panic!("{error}"),
    }
}

#[test]
fn every_type_of_key_is_read_in_every_format() {
    for kind in [
        "ed25519",
        "ecdsa -b 256",
        "ecdsa -b 384",
        "ecdsa -b 521",
        "rsa -b 2048",
        "rsa -b 3072",
    ] {
        let keys = Keys::made_by(&format!("ssh-keygen -q -t {kind} -N '' -C 'a b' -f k"));
        keys.check("k", &keys.key("k"));
        // ssh-keygen writes Ed25519 in its own format only.
        if kind != "ed25519" {
            keys.run(
                "cp k pem; ssh-keygen -q -p -m PEM -N '' -f pem
                cp k pkcs8; ssh-keygen -q -p -m PKCS8 -N '' -f pkcs8
                head -1 pem | grep -E 'BEGIN (RSA|EC) PRIVATE'
                head -1 pkcs8 | grep 'BEGIN PRIVATE'",
            );
            keys.check("pem", &keys.key("pem"));
            keys.check("pkcs8", &keys.key("pkcs8"));
        }
    }
}

#[test]
fn an_ed25519_key_is_read_as_pkcs8() {
    let keys = Keys::made_by(ED25519);
    // What openssl makes of the seed, after the public half in the private one.
    let Ok(Contents::Private(block)) = envelope::contents(&keys.content("k")) else {
        panic!("the key is not found");
    };
    let at = block
        .data
        .windows(4)
        .rposition(|length| length == [0, 0, 0, 64]);
    let seed = &block.data[at.unwrap() + 4..][..32];
    let key = openssl::pkey::PKey::private_key_from_raw_bytes(seed, openssl::pkey::Id::ED25519);
    keys.write("clear", key.unwrap().private_key_to_pem_pkcs8().unwrap());
    keys.check("clear", &keys.key("clear"));
    keys.run(
        "openssl pkcs8 -topk8 -in clear -passout pass:secret -out sealed; cp k.pub sealed.pub",
    );
    keys.check_encrypted("sealed");
}

#[test]
fn every_cipher_of_ssh_keygen_is_known() {
    let keys = Keys::made_by(ED25519);
    for cipher in [
        "aes256-ctr",
        "aes192-ctr",
        "aes128-ctr",
        "aes256-cbc",
        "aes192-cbc",
        "aes128-cbc",
        "aes256-gcm@openssh.com",
        "aes128-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "3des-cbc",
    ] {
        keys.run(&format!(
            "cp k '{cipher}'; ssh-keygen -q -p -a 1 -Z {cipher} -N secret -f '{cipher}'"
        ));
        keys.check_encrypted(cipher);
    }
}

#[test]
fn every_type_of_key_is_decrypted_in_every_format() {
    for kind in ["ecdsa -b 256", "ecdsa -b 521", "rsa -b 2048"] {
        let keys = Keys::made_by(&format!(
            "ssh-keygen -q -t {kind} -N '' -C me -f k
            cp k ssh; ssh-keygen -q -p -a 1 -N secret -f ssh
            cp k pem; ssh-keygen -q -p -m PEM -N secret -f pem; cp k.pub pem.pub
            cp k pkcs8; ssh-keygen -q -p -m PKCS8 -N secret -f pkcs8; cp k.pub pkcs8.pub
            grep DEK-Info pem
            grep 'ENCRYPTED PRIVATE' pkcs8"
        ));
        for name in ["ssh", "pem", "pkcs8"] {
            keys.check_encrypted(name);
        }
    }
}

#[test]
fn every_cipher_of_openssl_is_known_or_named() {
    let keys = Keys::made_by(&format!("{RSA}; ssh-keygen -q -p -m PEM -N '' -f k"));
    for cipher in ["aes128", "aes192", "aes256", "des3"] {
        keys.run(&format!(
            "openssl rsa -in k -traditional -{cipher} -passout pass:secret -out pem-{cipher}
            openssl pkcs8 -topk8 -in k -v2 {cipher} -passout pass:secret -out pkcs8-{cipher}
            cp k.pub pem-{cipher}.pub
            cp k.pub pkcs8-{cipher}.pub"
        ));
        keys.check_encrypted(&format!("pem-{cipher}"));
        keys.check_encrypted(&format!("pkcs8-{cipher}"));
    }
    keys.run(
        "openssl pkcs8 -topk8 -in k -scrypt -passout pass:secret -out scrypt; cp k.pub scrypt.pub",
    );
    keys.check_encrypted("scrypt");

    let pem = String::from_utf8(keys.content("pem-aes128")).unwrap();
    keys.write("des", pem.replace("AES-128-CBC,", "DES-CBC,"));
    let error = keys.read("des").unwrap_err();
    assert_eq!(
        keys.message(&error),
        "can't use private key 'des': it is encrypted with DES-CBC, which is not supported: \
         encrypt it anew with `ssh-keygen -p`"
    );
    keys.write("strange", pem.replace("AES-128-CBC,", "SECRET-STUFF,"));
    assert_eq!(
        keys.problem("strange"),
        KeyProblem::UnsupportedCipher("an unknown cipher")
    );
    // An object identifier that nobody has heard of, in the place of PBES2.
    let block = keys.content("pkcs8-aes128");
    let Ok(Contents::Private(mut block)) = envelope::contents(&block) else {
        panic!("the key is not found");
    };
    let pbes2 = b"\x2a\x86\x48\x86\xf7\x0d\x01\x05\x0d";
    let at = block.data.windows(9).position(|oid| oid == pbes2).unwrap();
    block.data[at + 8] = 99;
    keys.write("odd", pem_text("ENCRYPTED PRIVATE KEY", &block.data));
    assert_eq!(
        problem(keys.read("odd").unwrap().unlock(Some("secret")).map(drop)),
        KeyProblem::UnsupportedCipher("an outdated or unknown cipher")
    );
}

fn pem_text(label: &str, data: &[u8]) -> String {
    let body = STANDARD.encode(data);
    format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
}

#[test]
fn an_unknown_cipher_of_openssh_is_named_only_if_it_is_a_name() {
    let keys = Keys::made_by(ED25519);
    for (cipher, shown) in [
        ("blowfish-cbc", "blowfish-cbc"),
        ("top-secret", "an unknown cipher"),
    ] {
        let public = keys.key("k").public_blob().to_vec();
        let mut data = b"openssh-key-v1\0".to_vec();
        for part in [cipher.as_bytes(), b"bcrypt", b""] {
            put_string(&mut data, part);
        }
        data.extend([0, 0, 0, 1]);
        put_string(&mut data, &public);
        put_string(&mut data, &[0; 16]);
        keys.write("old", pem_text("OPENSSH PRIVATE KEY", &data));
        let expected = KeyProblem::UnsupportedCipher(shown);
        assert_eq!(keys.problem("old"), expected);
    }
}

/// OpenSSH writes the secret number without leading zeros; every fourth key on
/// P-521 has some.
#[test]
fn an_ecdsa_key_may_have_a_short_secret_number() {
    use openssl::bn::{BigNum, BigNumContext};
    use openssl::ec::{EcGroup, EcKey, EcPoint};
    use openssl::nid::Nid;

    for (curve, bits) in [(Nid::X9_62_PRIME256V1, 240), (Nid::SECP521R1, 490)] {
        let group = EcGroup::from_curve_name(curve).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let mut secret = BigNum::from_u32(12345).unwrap();
        secret.set_bit(bits).unwrap();
        let mut public = EcPoint::new(&group).unwrap();
        public
            .mul_generator2(&group, &secret, &mut context)
            .unwrap();
        let key = EcKey::from_private_components(&group, &secret, &public).unwrap();

        let keys = Keys::made_by("true");
        keys.write("k", key.private_key_to_pem().unwrap());
        keys.run(
            "chmod 600 k; ssh-keygen -q -p -N '' -f k
            head -1 k | grep OPENSSH
            ssh-keygen -y -f k > k.pub",
        );
        keys.check("k", &keys.key("k"));
    }
}

#[test]
fn what_surrounds_a_key_does_not_matter() {
    for script in [
        ED25519,
        &format!("{RSA}; ssh-keygen -q -p -m PEM -N secret -f k"),
    ] {
        let keys = Keys::made_by(script);
        let text = String::from_utf8(keys.content("k")).unwrap();
        let variants = [
            text.replace('\n', "\r\n"),
            format!("\n\n{text}\n\n"),
            format!("\u{feff}{text}"),
            format!("Bag Attributes\n    friendlyName: x\nKey: y\n{text}and more\n"),
            format!(
                "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{text}"
            ),
            text.lines().map(|line| format!("  {line} \n")).collect(),
            text.trim_end().to_owned(),
        ];
        for variant in variants {
            keys.write("v", &variant);
            let key = keys.read("v").unwrap().unlock(Some("secret")).unwrap();
            keys.check("v", &key);
        }
    }
}

#[test]
fn curve_parameters_before_a_key_and_inside_it_are_understood() {
    let keys = Keys::made_by(
        "openssl ecparam -name prime256v1 -genkey -out k
        openssl ec -in k -param_enc explicit -out explicit
        chmod 600 k; ssh-keygen -y -f k > k.pub
        head -1 k | grep PARAMETERS",
    );
    keys.check("k", &keys.key("k"));
    keys.check("explicit", &keys.key("explicit"));
}

#[test]
fn the_public_half_of_a_sealed_pem_is_taken_from_beside_it() {
    let keys = Keys::made_by(&format!("{RSA}; ssh-keygen -q -p -m PEM -N secret -f k"));
    let file = keys.read("k").unwrap();
    assert_eq!(
        file.public_blob(),
        Some(file.unlock(Some("secret")).unwrap().public_blob())
    );
    for content in [
        "",
        "junk",
        "ssh-rsa AAAA",
        "ssh-rsa !!!!",
        "ssh-rsa AAAAA2FiYw==",
    ] {
        keys.write("k.pub", content);
        assert_eq!(keys.read("k").unwrap().public_blob(), None, "{content}");
    }
    fs::remove_file(keys.path("k.pub")).unwrap();
    assert_eq!(keys.read("k").unwrap().public_blob(), None);
}

#[test]
fn a_wrong_public_file_beside_a_key_changes_nothing() {
    let keys = Keys::made_by(&format!(
        "{ED25519}; ssh-keygen -q -t ed25519 -N '' -C me -f other"
    ));
    let right = keys.content("k.pub");
    fs::rename(keys.path("other.pub"), keys.path("k.pub")).unwrap();
    let key = keys.key("k");
    keys.write("k.pub", right);
    keys.check("k", &key);
}

#[test]
fn what_is_no_file_is_told() {
    let keys = Keys::made_by("mkdir dir; : > empty; echo > blank; echo hello > junk");
    let error = keys.read("none").unwrap_err();
    assert_eq!(keys.message(&error), "can't open private key 'none'");
    assert!(matches!(error, KeyError::Open { source, .. }
        if source.kind() == io::ErrorKind::NotFound));
    assert_eq!(keys.problem("dir"), KeyProblem::Directory);
    assert_eq!(keys.problem("empty"), KeyProblem::Empty);
    assert_eq!(keys.problem("blank"), KeyProblem::Empty);
    assert_eq!(keys.problem("junk"), KeyProblem::NoKey);
    let zero = problem(read(Path::new("/dev/zero")).map(drop));
    assert_eq!(zero, KeyProblem::TooBig);
    keys.write("long", vec![b'\n'; MAX_FILE + 1]);
    assert_eq!(keys.problem("long"), KeyProblem::TooBig);
    keys.write("longest", vec![b'\n'; MAX_FILE]);
    assert_eq!(keys.problem("longest"), KeyProblem::Empty);
}

#[test]
fn a_file_that_is_not_ours_to_read_is_told() {
    let keys = Keys::made_by("echo hello > k");
    fs::set_permissions(keys.path("k"), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(keys.path("k")).is_ok() {
        return; // Nothing is forbidden to root.
    }
    assert!(matches!(keys.read("k"), Err(KeyError::Open { source, .. })
        if source.kind() == io::ErrorKind::PermissionDenied));
}

#[test]
fn control_characters_of_a_file_name_are_not_printed() {
    let error = read(Path::new("/nowhere/\x1b[2Jk")).unwrap_err();
    assert_eq!(
        error.to_string(),
        r"can't open private key '/nowhere/\u{1b}[2Jk'"
    );
}

#[test]
fn a_public_key_is_recognized_and_the_private_one_named() {
    let keys = Keys::made_by(&format!(
        "{RSA}
        ssh-keygen -e -f k.pub > rfc4716
        ssh-keygen -e -m PKCS8 -f k.pub > spki
        ssh-keygen -e -m PEM -f k.pub > pkcs1
        cp k.pub copy"
    ));
    let error = keys.read("k.pub").unwrap_err();
    assert_eq!(
        keys.message(&error),
        "can't use private key 'k.pub': it is a public key: give the private key, 'k'"
    );
    for name in ["rfc4716", "spki", "pkcs1", "copy"] {
        let error = keys.read(name).unwrap_err();
        assert_eq!(
            keys.message(&error),
            format!(
                "can't use private key '{name}': it is a public key: \
                 give the private key that belongs to it"
            )
        );
    }
}

#[test]
fn a_certificate_is_recognized() {
    let keys = Keys::made_by(&format!(
        "{ED25519}; ssh-keygen -q -s k -I me -n me k.pub
        openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=x -keyout x.key -out x.pem"
    ));
    assert_eq!(keys.problem("k-cert.pub"), KeyProblem::Certificate);
    assert_eq!(keys.problem("x.pem"), KeyProblem::Certificate);
}

#[test]
fn unsupported_keys_are_recognized() {
    let keys = Keys::made_by(
        "openssl genpkey -algorithm ed448 -out ed448
        openssl genpkey -algorithm x25519 -out x25519
        openssl genpkey -algorithm rsa-pss -out pss
        openssl ecparam -name secp256k1 -genkey -noout -out k1
        openssl genrsa -out rsa512 512
        openssl dsaparam -genkey -out dsa 1024
        openssl pkcs8 -topk8 -nocrypt -in dsa -out dsa8",
    );
    keys.write("ppk", "PuTTY-User-Key-File-2: ssh-rsa\nEncryption: none\n");
    keys.write("ssh1", "SSH PRIVATE KEY FILE FORMAT 1.1\n\0\0");
    keys.write("ssh2", "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\n");
    let mut data = b"openssh-key-v1\0".to_vec();
    for part in ["none", "none", ""] {
        put_string(&mut data, part.as_bytes());
    }
    data.extend([0, 0, 0, 1]);
    let several = data.clone();
    let mut public = Vec::new();
    put_string(&mut public, b"sk-ssh-ed25519@openssh.com");
    put_string(&mut data, &public);
    keys.write("sk", pem_text("OPENSSH PRIVATE KEY", &data));
    let mut several = several;
    let last = several.len() - 1;
    several[last] = 2;
    keys.write("several", pem_text("OPENSSH PRIVATE KEY", &several));

    for (name, expected) in [
        ("ed448", "keys of this type"),
        ("x25519", "keys of this type"),
        ("pss", "keys of this type"),
        ("k1", "keys on this curve"),
        ("rsa512", "RSA keys of this size"),
        ("dsa", "DSA keys"),
        ("dsa8", "DSA keys"),
        ("ppk", "keys in PuTTY's format"),
        ("ssh1", "keys for version 1 of SSH"),
        ("ssh2", "private keys in SSH2 format"),
        ("sk", "keys in a hardware token (sk)"),
        ("several", "files with several keys"),
    ] {
        match keys.problem(name) {
            KeyProblem::Unsupported { what, .. } => assert_eq!(what, expected, "{name}"),
            other => panic!("{name}: {other}"),
        }
    }
    let error = keys.read("ppk").unwrap_err();
    assert_eq!(
        keys.message(&error),
        "can't use private key 'ppk': keys in PuTTY's format are not supported: \
         convert it with `puttygen FILE -O private-openssh -o NEWFILE`"
    );
}

#[test]
fn a_file_that_was_cut_off_is_recognized() {
    let keys = Keys::made_by(&format!(
        "{RSA}
        cp k sealed; ssh-keygen -q -p -a 1 -N secret -f sealed
        cp k pem; ssh-keygen -q -p -m PEM -N '' -f pem
        cp k sealedpem; ssh-keygen -q -p -m PEM -N secret -f sealedpem
        cp k pkcs8; ssh-keygen -q -p -m PKCS8 -N '' -f pkcs8
        cp k sealedpkcs8; ssh-keygen -q -p -m PKCS8 -N secret -f sealedpkcs8"
    ));
    for name in ["k", "sealed", "pem", "sealedpem", "pkcs8", "sealedpkcs8"] {
        let text = String::from_utf8(keys.content(name)).unwrap();
        keys.write("cut", &text[..text.len() / 2]);
        assert_eq!(keys.problem("cut"), KeyProblem::Truncated, "{name}");
        // Lines are missing in the middle. (They are whole blocks of a cipher, and
        // this format does not say how long it is: a wrong passphrase, it seems.)
        if name == "sealedpem" {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        let few = [&lines[..8], &lines[lines.len() - 1..]].concat().join("\n");
        keys.write("cut", few);
        let problem = keys.problem("cut");
        assert!(
            matches!(problem, KeyProblem::Truncated | KeyProblem::Damaged),
            "{name}: {problem}"
        );
    }
}

#[test]
fn a_key_that_does_not_fit_together_is_damaged() {
    let keys = Keys::made_by(&format!(
        "{ED25519}; ssh-keygen -q -t ed25519 -N '' -C me -f other"
    ));
    let data = |name| match envelope::contents(&keys.content(name)) {
        Ok(Contents::Private(block)) => block.data,
        _ => panic!("the key is not found"),
    };
    let (mut key, other) = (data("k"), data("other"));
    // The seed of one key with the public half of another.
    let length = key.len();
    key[length - 79..].copy_from_slice(&other[length - 79..]);
    let text = pem_text("OPENSSH PRIVATE KEY", &key);
    keys.write("mixed", text);
    assert_eq!(keys.problem("mixed"), KeyProblem::Damaged);
}

#[test]
fn a_key_that_would_take_minutes_to_decrypt_is_refused() {
    let keys = Keys::made_by("ssh-keygen -q -t ed25519 -a 1 -N secret -f k");
    let Ok(Contents::Private(mut block)) = envelope::contents(&keys.content("k")) else {
        panic!("the key is not found");
    };
    // magic, cipher, KDF, options: salt
    let at = 15 + 4 + 10 + 4 + 6 + 4 + 4 + 16;
    assert_eq!(block.data[at..at + 4], [0, 0, 0, 1]);
    block.data[at] = 1;
    keys.write("slow", pem_text("OPENSSH PRIVATE KEY", &block.data));
    let rounds = (1 << 24) + 1;
    assert_eq!(keys.problem("slow"), KeyProblem::TooManyRounds(rounds));
}

#[test]
fn clones_share_one_secret() {
    let keys = Keys::made_by(ED25519);
    let file = keys.read("k").unwrap();
    let (one, two) = (
        file.unlock(None).unwrap(),
        file.unlock(Some("any")).unwrap(),
    );
    assert!(Arc::ptr_eq(&one.0, &two.clone().0));
}

#[test]
fn debug_output_tells_no_secrets() {
    let keys = Keys::made_by(&format!(
        "{RSA}; cp k sealed; ssh-keygen -q -p -m PEM -N secret -f sealed"
    ));
    for name in ["k", "sealed"] {
        let file = keys.read(name).unwrap();
        let key = file.unlock(Some("secret")).unwrap();
        let text = format!("{file:?} {key:?} {file:#?} {key:#?}");
        assert_quotes_nothing(&text, &keys.content(name));
        assert!(
            text.contains("ssh-rsa") && text.contains("SHA256:"),
            "{text}"
        );
    }
}

/// Fails if the text holds any 8 bytes in a row of the content.
fn assert_quotes_nothing(text: &str, content: &[u8]) {
    let runs: HashSet<&[u8]> = content.windows(8).collect();
    for run in text.as_bytes().windows(8) {
        assert!(!runs.contains(run), "{text}");
    }
}

/// One file of each kind, to be damaged.
static SAMPLES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let keys = Keys::made_by(&format!(
        "{ED25519}
        ssh-keygen -q -t ecdsa -N '' -f ec
        ssh-keygen -q -t rsa -b 2048 -N '' -f rsa
        cp k gcm; ssh-keygen -q -p -a 1 -Z aes256-gcm@openssh.com -N secret -f gcm
        cp k ctr; ssh-keygen -q -p -a 1 -N secret -f ctr
        cp ec ecpem; ssh-keygen -q -p -m PEM -N '' -f ecpem
        cp rsa rsapem; ssh-keygen -q -p -m PEM -N '' -f rsapem
        cp rsa sealedpem; ssh-keygen -q -p -m PEM -N secret -f sealedpem
        cp ec pkcs8; ssh-keygen -q -p -m PKCS8 -N '' -f pkcs8
        cp ec sealedpkcs8; ssh-keygen -q -p -m PKCS8 -N secret -f sealedpkcs8"
    ));
    let names = [
        "k",
        "ec",
        "rsa",
        "gcm",
        "ctr",
        "ecpem",
        "rsapem",
        "sealedpem",
        "pkcs8",
        "sealedpkcs8",
    ];
    names.map(|name| keys.content(name)).into()
});

/// Reads and unlocks a file of this content, and looks at every error.
fn survives(content: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k");
    fs::write(&path, content).unwrap();
    let harmless = |error: KeyError| assert_quotes_nothing(&format!("{error} {error:?}"), content);
    let file = match read(&path) {
        Ok(file) => file,
        Err(error) => return harmless(error),
    };
    if matches!(&file.state, State::OpenSsh(container) if container.rounds() > 4) {
        return;
    }
    for passphrase in [None, Some("secret")] {
        if let Err(error) = file.unlock(passphrase) {
            harmless(error);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn random_bytes_are_survived(content in proptest::collection::vec(any::<u8>(), 0..2000)) {
        survives(&content);
    }

    #[test]
    fn random_data_in_a_valid_envelope_is_survived(
        label in proptest::sample::select(vec![
            "OPENSSH PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY",
            "PRIVATE KEY", "ENCRYPTED PRIVATE KEY", "PUBLIC KEY",
        ]),
        magic in any::<bool>(),
        data in proptest::collection::vec(any::<u8>(), 0..600),
    ) {
        let start: &[u8] = if magic { b"openssh-key-v1\0" } else { b"" };
        survives(pem_text(label, &[start, &data].concat()).as_bytes());
    }

    #[test]
    fn damaged_text_is_survived(
        sample in 0..10usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut content = SAMPLES[sample].clone();
        for (index, byte) in changes {
            let at = index.index(content.len());
            content[at] = byte;
        }
        survives(&content);
    }

    #[test]
    fn damaged_data_is_survived(
        sample in 0..10usize,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::weighted(0.2, any::<proptest::sample::Index>()),
    ) {
        let text = String::from_utf8(SAMPLES[sample].clone()).unwrap();
        let (label, _) = text["-----BEGIN ".len()..].split_once('-').unwrap();
        let Ok(Contents::Private(block)) = envelope::contents(text.as_bytes()) else {
            panic!("the key is not found");
        };
        let mut data = block.data.to_vec();
        for (index, byte) in changes {
            let at = index.index(data.len());
            data[at] = byte;
        }
        if let Some(cut) = cut {
            data.truncate(cut.index(data.len()));
        }
        survives(pem_text(label, &data).as_bytes());
    }
}
