//! The one form in which keys are used, whatever they were in their files.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{Asn1Flag, EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, PKeyRef, Private};
use openssl::rsa::{Rsa, RsaPrivateKeyBuilder};
use openssl::sha::sha256;
use openssl::sign::{Signer, Verifier};
use zeroize::Zeroizing;

use super::envelope::unsupported_dsa;
use super::openssh::put_string;
use super::{KeyProblem, Secret};

/// OpenSSH's limits. Beyond the upper one arithmetic takes minutes.
const RSA_BITS: std::ops::RangeInclusive<i32> = 1024..=16384;

/// The types of keys that we can log in with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Ed25519,
    Ecdsa(Curve),
    Rsa,
}

/// The curves of ECDSA keys in SSH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Curve {
    P256,
    P384,
    P521,
}

impl Algorithm {
    pub(super) const ALL: [Self; 5] = [
        Self::Ed25519,
        Self::Ecdsa(Curve::P256),
        Self::Ecdsa(Curve::P384),
        Self::Ecdsa(Curve::P521),
        Self::Rsa,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::Ecdsa(Curve::P256) => "ecdsa-sha2-nistp256",
            Self::Ecdsa(Curve::P384) => "ecdsa-sha2-nistp384",
            Self::Ecdsa(Curve::P521) => "ecdsa-sha2-nistp521",
            Self::Rsa => "ssh-rsa",
        }
    }
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::P256 => "nistp256",
            Self::P384 => "nistp384",
            Self::P521 => "nistp521",
        }
    }

    fn nid(self) -> Nid {
        match self {
            Self::P256 => Nid::X9_62_PRIME256V1,
            Self::P384 => Nid::SECP384R1,
            Self::P521 => Nid::SECP521R1,
        }
    }

    fn group(self) -> Result<EcGroup, ErrorStack> {
        let mut group = EcGroup::from_curve_name(self.nid())?;
        group.set_asn1_flag(Asn1Flag::NAMED_CURVE);
        Ok(group)
    }
}

/// A key in all the forms that a login needs.
pub(super) struct Material {
    pub(super) algorithm: Algorithm,
    pub(super) public_blob: Vec<u8>,
    pub(super) public_text: String,
    pub(super) fingerprint: String,
    pub(super) private_text: Zeroizing<String>,
}

impl Material {
    /// Checks that the key works, once for all hosts: a damaged one would only
    /// show as a login that every server refuses.
    pub(super) fn new(key: &PKeyRef<Private>) -> Result<Self, KeyProblem> {
        let (algorithm, public_blob) = public_half(key)?;
        if !signs(key).unwrap_or(false) {
            return Err(KeyProblem::Damaged);
        }
        let pem = private_text(key, algorithm).map_err(|_| KeyProblem::Damaged)?;
        let digest = STANDARD_NO_PAD.encode(sha256(&public_blob));
        Ok(Self {
            algorithm,
            public_text: format!("{} {}", algorithm.name(), STANDARD.encode(&public_blob)),
            fingerprint: format!("SHA256:{digest}"),
            private_text: pem,
            public_blob,
        })
    }
}

/// The type of a key, and its public half in SSH's wire format.
pub(super) fn public_half(key: &PKeyRef<Private>) -> Result<(Algorithm, Vec<u8>), KeyProblem> {
    let damaged = |_: ErrorStack| KeyProblem::Damaged;
    let mut blob = Vec::new();
    let algorithm = match key.id() {
        Id::ED25519 => {
            put_string(&mut blob, Algorithm::Ed25519.name().as_bytes());
            put_string(&mut blob, &key.raw_public_key().map_err(damaged)?);
            Algorithm::Ed25519
        }
        Id::RSA => {
            let rsa = key.rsa().map_err(damaged)?;
            check_rsa(&rsa)?;
            put_string(&mut blob, Algorithm::Rsa.name().as_bytes());
            put_positive(&mut blob, rsa.e());
            put_positive(&mut blob, rsa.n());
            Algorithm::Rsa
        }
        Id::EC => {
            let ec = key.ec_key().map_err(damaged)?;
            let nid = ec.group().curve_name();
            let curve = Curve::ALL
                .into_iter()
                .find(|curve| Some(curve.nid()) == nid)
                .ok_or(KeyProblem::Unsupported {
                    what: "keys on this curve",
                    advice: "SSH knows nistp256, nistp384 and nistp521",
                })?;
            let mut context = BigNumContext::new().map_err(damaged)?;
            let point = ec
                .public_key()
                .to_bytes(ec.group(), PointConversionForm::UNCOMPRESSED, &mut context)
                .map_err(damaged)?;
            put_string(&mut blob, Algorithm::Ecdsa(curve).name().as_bytes());
            put_string(&mut blob, curve.name().as_bytes());
            put_string(&mut blob, &point);
            Algorithm::Ecdsa(curve)
        }
        Id::DSA => return Err(unsupported_dsa()),
        _ => {
            return Err(KeyProblem::Unsupported {
                what: "keys of this type",
                advice: "use Ed25519, ECDSA or RSA",
            });
        }
    };
    Ok((algorithm, blob))
}

fn check_rsa(rsa: &Rsa<Private>) -> Result<(), KeyProblem> {
    if !RSA_BITS.contains(&rsa.n().num_bits()) {
        return Err(KeyProblem::Unsupported {
            what: "RSA keys of this size",
            advice: "use 2048 to 4096 bits",
        });
    }
    let (Some(p), Some(q)) = (rsa.p(), rsa.q()) else {
        return Err(KeyProblem::Damaged);
    };
    if is_product(rsa.n(), p, q) && rsa.d() < rsa.n() && rsa.e() < rsa.n() {
        Ok(())
    } else {
        Err(KeyProblem::Damaged)
    }
}

fn is_product(n: &BigNumRef, p: &BigNumRef, q: &BigNumRef) -> bool {
    let multiply = || {
        let mut product = BigNum::new()?;
        product.checked_mul(p, q, &mut *BigNumContext::new()?)?;
        Ok::<_, ErrorStack>(product)
    };
    // Before multiplying: damaged numbers may be of any length.
    p.num_bits() + q.num_bits() <= n.num_bits() + 1
        && multiply().is_ok_and(|product| *product == *n)
}

/// Signs something and checks the signature with the public half.
fn signs(key: &PKeyRef<Private>) -> Result<bool, ErrorStack> {
    let text = sha256(b"orgalorg");
    match key.id() {
        Id::ED25519 => {
            let signature = Signer::new_without_digest(key)?.sign_oneshot_to_vec(&text)?;
            Verifier::new_without_digest(key)?.verify_oneshot(&signature, &text)
        }
        // Not through a `Signer`, which leaves a copy of the key in freed memory.
        Id::EC => {
            let key = key.ec_key()?;
            EcdsaSig::sign(&text, &key)?.verify(&text, &key)
        }
        _ => {
            let digest = MessageDigest::sha256();
            let signature = Signer::new(digest, key)?.sign_oneshot_to_vec(&text)?;
            Verifier::new(digest, key)?.verify_oneshot(&signature, &text)
        }
    }
}

/// PKCS#8, which is the only text that suits all types.
fn private_text(
    key: &PKeyRef<Private>,
    algorithm: Algorithm,
) -> Result<Zeroizing<String>, ErrorStack> {
    let pem = match algorithm {
        // A file may spell out the parameters of its curve: name them instead.
        Algorithm::Ecdsa(curve) => {
            let ec = key.ec_key()?;
            let named = EcKey::from_private_components(
                &*curve.group()?,
                ec.private_key(),
                ec.public_key(),
            )?;
            PKey::from_ec_key(named)?.private_key_to_pem_pkcs8()?
        }
        Algorithm::Ed25519 | Algorithm::Rsa => key.private_key_to_pem_pkcs8()?,
    };
    Ok(Zeroizing::new(
        String::from_utf8(pem).expect("PEM is ASCII"),
    ))
}

/// An Ed25519 key from its seed.
pub(super) fn ed25519(seed: &[u8]) -> Result<PKey<Private>, ErrorStack> {
    PKey::private_key_from_raw_bytes(seed, Id::ED25519)
}

/// An ECDSA key from its numbers.
pub(super) fn ecdsa(
    curve: Curve,
    point: &[u8],
    scalar: &[u8],
) -> Result<PKey<Private>, ErrorStack> {
    let group = curve.group()?;
    let public = EcPoint::from_bytes(&group, point, &mut *BigNumContext::new()?)?;
    let scalar = SecretNumber::from_slice(scalar)?;
    PKey::from_ec_key(EcKey::from_private_components(&group, &scalar.0, &public)?)
}

/// The numbers of an RSA key, in the order of OpenSSH's format.
pub(super) struct RsaNumbers<'a> {
    pub(super) n: &'a [u8],
    pub(super) e: &'a [u8],
    pub(super) d: &'a [u8],
    pub(super) iqmp: &'a [u8],
    pub(super) p: &'a [u8],
    pub(super) q: &'a [u8],
}

/// An RSA key from its numbers. The two CRT exponents, which OpenSSH leaves out
/// of its files, are computed: they make signing three times as fast.
pub(super) fn rsa(numbers: &RsaNumbers<'_>) -> Result<PKey<Private>, ErrorStack> {
    let d = SecretNumber::from_slice(numbers.d)?;
    let p = SecretNumber::from_slice(numbers.p)?;
    let q = SecretNumber::from_slice(numbers.q)?;
    let (dmp1, dmq1) = (d.modulo_predecessor(&p)?, d.modulo_predecessor(&q)?);
    // OpenSSL wipes the numbers that it is given for good.
    let number = BigNum::from_slice;
    let key =
        RsaPrivateKeyBuilder::new(number(numbers.n)?, number(numbers.e)?, number(numbers.d)?)?
            .set_factors(number(numbers.p)?, number(numbers.q)?)?
            .set_crt_params(dmp1, dmq1, number(numbers.iqmp)?)?
            .build();
    PKey::from_rsa(key)
}

/// A number that is wiped when it is dropped, which OpenSSL's are not by
/// themselves.
struct SecretNumber(BigNum);

impl SecretNumber {
    fn from_slice(bytes: &[u8]) -> Result<Self, ErrorStack> {
        BigNum::from_slice(bytes).map(Self)
    }

    /// `self mod (modulus - 1)`
    fn modulo_predecessor(&self, modulus: &Self) -> Result<BigNum, ErrorStack> {
        let mut predecessor = Self(modulus.0.to_owned()?);
        predecessor.0.sub_word(1)?;
        let mut rest = BigNum::new()?;
        rest.nnmod(&self.0, &predecessor.0, &mut *BigNumContext::new_secure()?)?;
        Ok(rest)
    }
}

impl Drop for SecretNumber {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// Appends a positive number as an `mpint`.
fn put_positive(buffer: &mut Vec<u8>, number: &BigNumRef) {
    let mut bytes = number.to_vec();
    if bytes.first().is_some_and(|&first| first >= 0x80) {
        bytes.insert(0, 0);
    }
    put_string(buffer, &bytes);
}

/// Room for the output of a cipher, which OpenSSL wants a block longer.
pub(super) fn room(length: usize) -> Secret {
    Zeroizing::new(vec![
        0;
        length
            + openssl::symm::Cipher::aes_256_cbc().block_size()
    ])
}
