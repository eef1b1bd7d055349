//! The one form in which keys are used, whatever they were in their files: parsed, by
//! OpenSSL, which has the fast and hardened arithmetic.

use openssl::bn::{BigNum, BigNumContext, BigNumRef};
use openssl::ec::{EcGroup, EcKey, EcPoint, PointConversionForm};
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::{Rsa, RsaPrivateKeyBuilder};
use openssl::sha::{sha256, sha384, sha512};
use openssl::sign::{Signer, Verifier};
use ssh_key::encoding::{self, Encode};
use ssh_key::public::{EcdsaPublicKey, Ed25519PublicKey, KeyData, RsaPublicKey};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, Mpint, PublicKey};

use super::problem::{KeyProblem, unsupported_dsa};

/// OpenSSH's limits. Beyond the upper one arithmetic takes minutes.
const RSA_BITS: std::ops::RangeInclusive<i32> = 1024..=16384;

const CURVES: [EcdsaCurve; 3] = [
    EcdsaCurve::NistP256,
    EcdsaCurve::NistP384,
    EcdsaCurve::NistP521,
];

/// A key that is ready to sign, from any number of threads at once.
pub(super) enum SigningKey {
    Ed25519(PKey<Private>),
    /// Not a `PKey`: its `Signer` leaves a copy of the key in freed memory.
    Ecdsa(EcdsaCurve, EcKey<Private>),
    Rsa(PKey<Private>),
}

impl SigningKey {
    /// Checks that the key can be used and works, once for all hosts: a damaged one
    /// would only show as a login that every server refuses.
    pub(super) fn new(key: PKey<Private>) -> Result<Self, KeyProblem> {
        let damaged = |_: ErrorStack| KeyProblem::Damaged;
        let key = match key.id() {
            Id::ED25519 => Self::Ed25519(key),
            Id::EC => {
                let (curve, key) = on_named_curve(&key.ec_key().map_err(damaged)?)?;
                Self::Ecdsa(curve, key)
            }
            Id::RSA => {
                check_rsa(&key.rsa().map_err(damaged)?)?;
                Self::Rsa(key)
            }
            Id::DSA => return Err(unsupported_dsa()),
            _ => {
                return Err(KeyProblem::Unsupported {
                    what: "keys of this type",
                    advice: "use Ed25519, ECDSA or RSA",
                });
            }
        };
        if key.signs().unwrap_or(false) {
            Ok(key)
        } else {
            Err(KeyProblem::Damaged)
        }
    }

    /// The key's type, as SSH names it.
    pub(super) fn algorithm(&self) -> Algorithm {
        match self {
            Self::Ed25519(_) => Algorithm::Ed25519,
            Self::Ecdsa(curve, _) => Algorithm::Ecdsa { curve: *curve },
            Self::Rsa(_) => Algorithm::Rsa { hash: None },
        }
    }

    /// The public half in SSH's wire format.
    pub(super) fn public_blob(&self) -> Result<Vec<u8>, KeyProblem> {
        let data = self.public().map_err(|_| KeyProblem::Damaged)?;
        let data = data.map_err(|_| KeyProblem::Damaged)?;
        let blob = PublicKey::from(data).to_bytes();
        blob.map_err(|_| KeyProblem::Damaged)
    }

    fn public(&self) -> Result<ssh_key::Result<KeyData>, ErrorStack> {
        Ok(match self {
            Self::Ed25519(key) => {
                let public = key.raw_public_key()?;
                Ed25519PublicKey::try_from(public.as_slice()).map(KeyData::Ed25519)
            }
            Self::Ecdsa(_, key) => {
                let mut context = BigNumContext::new()?;
                let form = PointConversionForm::UNCOMPRESSED;
                let point = key.public_key().to_bytes(key.group(), form, &mut context)?;
                EcdsaPublicKey::from_sec1_bytes(&point).map(KeyData::Ecdsa)
            }
            Self::Rsa(key) => {
                let rsa = key.rsa()?;
                RsaPublicKey::new(positive(rsa.e()), positive(rsa.n())).map(KeyData::Rsa)
            }
        })
    }

    /// The signature as SSH's wire format has it, without the name of the algorithm.
    /// `None` if the key does not know the algorithm, or OpenSSL refuses it (as some
    /// systems do with SHA-1).
    pub(super) fn sign(&self, algorithm: &[u8], data: &[u8]) -> Option<Vec<u8>> {
        let algorithm = Algorithm::new(std::str::from_utf8(algorithm).ok()?).ok()?;
        match (self, algorithm) {
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                let mut signer = Signer::new_without_digest(key).ok()?;
                signer.sign_oneshot_to_vec(data).ok()
            }
            (Self::Ecdsa(curve, key), Algorithm::Ecdsa { curve: asked }) if asked == *curve => {
                let signature = EcdsaSig::sign(&digest(*curve, data), key).ok()?;
                numbers(&signature).ok()
            }
            (Self::Rsa(key), Algorithm::Rsa { hash }) => {
                let mut signer = Signer::new(rsa_digest(hash), key).ok()?;
                signer.sign_oneshot_to_vec(data).ok()
            }
            _ => None,
        }
    }

    /// Signs something and checks the signature with the public half.
    fn signs(&self) -> Result<bool, ErrorStack> {
        let text = b"orgalorg";
        match self {
            Self::Ed25519(key) => {
                let signature = Signer::new_without_digest(key)?.sign_oneshot_to_vec(text)?;
                Verifier::new_without_digest(key)?.verify_oneshot(&signature, text)
            }
            Self::Ecdsa(curve, key) => {
                let digest = digest(*curve, text);
                EcdsaSig::sign(&digest, key)?.verify(&digest, key)
            }
            Self::Rsa(key) => {
                let digest = MessageDigest::sha256();
                let signature = Signer::new(digest, key)?.sign_oneshot_to_vec(text)?;
                Verifier::new(digest, key)?.verify_oneshot(&signature, text)
            }
        }
    }
}

/// RFC 8332. Servers that do not say which hashes they take get SHA-1 (`ssh-rsa`).
fn rsa_digest(hash: Option<HashAlg>) -> MessageDigest {
    match hash {
        Some(HashAlg::Sha512) => MessageDigest::sha512(),
        Some(_) => MessageDigest::sha256(),
        None => MessageDigest::sha1(),
    }
}

/// RFC 5656, section 6.2.1: the hash that belongs to the curve.
fn digest(curve: EcdsaCurve, data: &[u8]) -> Vec<u8> {
    match curve {
        EcdsaCurve::NistP256 => sha256(data).to_vec(),
        EcdsaCurve::NistP384 => sha384(data).to_vec(),
        EcdsaCurve::NistP521 => sha512(data).to_vec(),
    }
}

/// RFC 5656, section 3.1.2.
fn numbers(signature: &EcdsaSig) -> encoding::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    positive(signature.r()).encode(&mut bytes)?;
    positive(signature.s()).encode(&mut bytes)?;
    Ok(bytes)
}

fn positive(number: &BigNumRef) -> Mpint {
    Mpint::from_positive_bytes(&number.to_vec())
}

fn nid(curve: EcdsaCurve) -> Nid {
    match curve {
        EcdsaCurve::NistP256 => Nid::X9_62_PRIME256V1,
        EcdsaCurve::NistP384 => Nid::SECP384R1,
        EcdsaCurve::NistP521 => Nid::SECP521R1,
    }
}

/// A key on one of our curves. (A file may spell out the parameters of its curve,
/// which is slow: OpenSSL is told the name instead.)
fn on_named_curve(key: &EcKey<Private>) -> Result<(EcdsaCurve, EcKey<Private>), KeyProblem> {
    let named = key.group().curve_name();
    let curve = CURVES
        .into_iter()
        .find(|curve| Some(nid(*curve)) == named)
        .ok_or(KeyProblem::Unsupported {
            what: "keys on this curve",
            advice: "SSH knows nistp256, nistp384 and nistp521",
        })?;
    EcGroup::from_curve_name(nid(curve))
        .and_then(|group| {
            EcKey::from_private_components(&group, key.private_key(), key.public_key())
        })
        .map(|key| (curve, key))
        .map_err(|_| KeyProblem::Damaged)
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

/// An Ed25519 key from its seed.
pub(super) fn ed25519(seed: &[u8]) -> Result<PKey<Private>, ErrorStack> {
    PKey::private_key_from_raw_bytes(seed, Id::ED25519)
}

/// An ECDSA key from its numbers.
pub(super) fn ecdsa(
    curve: EcdsaCurve,
    point: &[u8],
    scalar: &[u8],
) -> Result<PKey<Private>, ErrorStack> {
    let group = EcGroup::from_curve_name(nid(curve))?;
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
