//! The algorithms that are offered to a server, in our order.

use ssh2::MethodType;

/// Cheap key exchanges first: the modular groups cost 15 times as much as a
/// curve.
const KEX: [&str; 9] = [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
    "diffie-hellman-group18-sha512",
    "diffie-hellman-group-exchange-sha256",
];

/// libssh2 feeds AES one block at a time, so that ChaCha20 costs least here.
const CIPHERS: [&str; 6] = [
    "chacha20-poly1305@openssh.com",
    "aes256-ctr",
    "aes192-ctr",
    "aes128-ctr",
    "aes256-gcm@openssh.com",
    "aes128-gcm@openssh.com",
];

const MACS: [&str; 6] = [
    "hmac-sha2-256-etm@openssh.com",
    "hmac-sha2-512-etm@openssh.com",
    "hmac-sha2-256",
    "hmac-sha2-512",
    "hmac-sha1-etm@openssh.com",
    "hmac-sha1",
];

/// Host-key algorithms, the cheapest and safest first. No certificates: nothing
/// here checks them, and the default of libssh2 would put them in front.
const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];

/// What is offered to one server: comma lists, as in RFC 4253 section 7.1.
pub(super) struct Offer {
    kex: String,
    host_keys: String,
    ciphers: String,
    macs: String,
}

impl Offer {
    /// Sets the offer of a session: of our lists, what the library has. (How it was
    /// built decides about SHA-1, for example.) Types of known host keys come first.
    pub(super) fn set(
        session: &ssh2::Session,
        known_types: &[String],
    ) -> Result<Self, ssh2::Error> {
        let list = |method, preference: &[&str]| -> Result<String, ssh2::Error> {
            Ok(available(preference, &session.supported_algs(method)?))
        };
        let offer = Self {
            kex: list(MethodType::Kex, &KEX)?,
            host_keys: list(MethodType::HostKey, &host_key_preference(known_types))?,
            ciphers: list(MethodType::CryptCs, &CIPHERS)?,
            macs: list(MethodType::MacCs, &MACS)?,
        };
        for (method, list) in [
            (MethodType::Kex, &offer.kex),
            (MethodType::HostKey, &offer.host_keys),
            (MethodType::CryptCs, &offer.ciphers),
            (MethodType::CryptSc, &offer.ciphers),
            (MethodType::MacCs, &offer.macs),
            (MethodType::MacSc, &offer.macs),
        ] {
            session.method_pref(method, list)?;
        }
        Ok(offer)
    }

    /// The lists and what they are of.
    pub(super) fn lists(&self) -> [(&'static str, &str); 4] {
        [
            ("key exchange", &self.kex),
            ("host keys", &self.host_keys),
            ("ciphers", &self.ciphers),
            ("MACs", &self.macs),
        ]
    }
}

/// What there is of a list, in its order.
fn available(preference: &[&str], supported: &[&str]) -> String {
    let there = preference.iter().filter(|name| supported.contains(name));
    there.copied().collect::<Vec<_>>().join(",")
}

/// The algorithms to ask for, those of known keys first. An RSA key is recorded
/// as `ssh-rsa` and shown under the names of RFC 8332.
fn host_key_preference(known_types: &[String]) -> [&'static str; 6] {
    let is_known = |algorithm: &str| {
        let kind = if algorithm.starts_with("rsa-") {
            "ssh-rsa"
        } else {
            algorithm
        };
        known_types.iter().any(|known| known == kind)
    };
    let mut algorithms = HOST_KEYS;
    algorithms.sort_by_key(|algorithm| !is_known(algorithm));
    algorithms
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn types_of_known_keys_are_asked_for_first() {
        let preference = host_key_preference(&["ssh-rsa".to_owned()]);
        assert_eq!(
            preference[..3],
            ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]
        );
        assert_eq!(host_key_preference(&[]), HOST_KEYS);
    }

    #[test]
    fn what_the_library_lacks_is_not_offered() {
        let session = ssh2::Session::new().expect("memory");
        let offer = Offer::set(&session, &[]).expect("an offer");
        let supported = session.supported_algs(MethodType::MacCs).expect("a list");
        let macs: Vec<&str> = offer.macs.split(',').collect();
        assert!(macs.starts_with(&["hmac-sha2-256-etm@openssh.com"]));
        assert!(macs.iter().all(|mac| supported.contains(mac)), "{macs:?}");
        assert_eq!(available(&["c", "a", "b"], &["a", "c", "d"]), "c,a");
    }

    /// What a client of this says before the server's algorithms are known.
    fn proposal(offered: impl FnOnce(&ssh2::Session) -> Offer) -> (Offer, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().expect("a client");
            peer.write_all(b"SSH-2.0-test\r\n").expect("it listens");
            let mut byte = [0];
            while byte != [b'\n'] {
                peer.read_exact(&mut byte).expect("a greeting");
            }
            let mut length = [0; 4];
            peer.read_exact(&mut length).expect("a packet");
            let mut packet = vec![0; u32::from_be_bytes(length) as usize];
            peer.read_exact(&mut packet).expect("a packet");
            packet
        });
        let mut session = ssh2::Session::new().expect("memory");
        let offer = offered(&session);
        session.set_tcp_stream(TcpStream::connect(address).expect("it listens"));
        assert!(session.handshake().is_err());
        let packet = server.join().expect("no panic");
        // Length of padding, number of the message, cookie (RFC 4253 section 7.1).
        let mut rest = &packet[18..];
        let lists = (0..6).map(|_| {
            let (length, list) = rest.split_at(4);
            let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
            let (list, after) = list.split_at(length as usize);
            rest = after;
            String::from_utf8(list.to_vec()).expect("names")
        });
        (offer, lists.collect())
    }

    #[test]
    fn the_lists_are_what_a_server_sees() {
        let (offer, seen) = proposal(|session| Offer::set(session, &[]).expect("an offer"));
        let [(_, kex), (_, host_keys), (_, ciphers), (_, macs)] = offer.lists();
        // The library adds names that are no algorithms (RFC 8308, strict key exchange).
        assert!(seen[0].ends_with(kex), "{seen:?}");
        let expected = [host_keys, ciphers, ciphers, macs, macs];
        assert_eq!(seen[1..], expected);
    }
}
