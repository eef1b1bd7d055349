//! Public-key logins whose signatures are made here, not by libssh2.
//!
//! libssh2's own functions parse the private key anew at each login, which costs more
//! than the signature. `libssh2_userauth_publickey` (in its public header; neither
//! `libssh2-sys` nor `ssh2` declares it) takes a callback instead.

use std::cell::Cell;
use std::ffi::{CString, NulError, c_char, c_int, c_uchar, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use libssh2_sys::{
    LIBSSH2_ERROR_ALLOC, LIBSSH2_ERROR_AUTHENTICATION_FAILED, LIBSSH2_ERROR_METHOD_NONE,
    LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED, LIBSSH2_SESSION,
};
use ssh_key::encoding::{self, Reader};
use ssh2::ErrorCode;

/// Signs data with the algorithm of this name (`rsa-sha2-512`, …).
///
/// The signature is that of RFC 4253 and its successors without the algorithm and the
/// length in front, which libssh2 adds.
type Sign<'a> = dyn Fn(&[u8], &[u8]) -> Option<Vec<u8>> + 'a;

type Callback = unsafe extern "C" fn(
    session: *mut LIBSSH2_SESSION,
    signature: *mut *mut c_uchar,
    signature_length: *mut usize,
    data: *const c_uchar,
    data_length: usize,
    context: *mut *mut c_void,
) -> c_int;

#[expect(unsafe_code, reason = "declares a function of libssh2.h")]
unsafe extern "C" {
    fn libssh2_userauth_publickey(
        session: *mut LIBSSH2_SESSION,
        user: *const c_char,
        public_key: *const c_uchar,
        public_key_length: usize,
        sign: Callback,
        context: *mut *mut c_void,
    ) -> c_int;
}

/// One attempt to log in with one key.
pub(super) struct PublicKeyLogin<'a> {
    user: CString,
    public_blob: &'a [u8],
    sign: &'a Sign<'a>,
    has_failed: Cell<bool>,
}

impl<'a> PublicKeyLogin<'a> {
    /// # Errors
    /// The user's name holds a NUL byte.
    pub(super) fn new(
        user: &str,
        public_blob: &'a [u8],
        sign: &'a Sign<'a>,
    ) -> Result<Self, NulError> {
        Ok(Self {
            user: CString::new(user)?,
            public_blob,
            sign,
            has_failed: Cell::new(false),
        })
    }

    /// Whether the server asked for a signature that could not be made.
    pub(super) fn has_failed_to_sign(&self) -> bool {
        self.has_failed.get()
    }

    /// Goes on with the attempt. After EAGAIN it must be called again.
    ///
    /// # Errors
    /// What libssh2 says.
    pub(super) fn step(&self, session: &ssh2::Session) -> Result<(), ssh2::Error> {
        let mut this = self;
        let mut context = (&raw mut this).cast::<c_void>();
        let code = {
            let mut raw = session.raw();
            #[expect(
                unsafe_code,
                reason = "the guard keeps the session alive and to ourselves, and all \
                          pointers but the session's are used during this call only"
            )]
            unsafe {
                libssh2_userauth_publickey(
                    &raw mut *raw,
                    self.user.as_ptr(),
                    self.public_blob.as_ptr(),
                    self.public_blob.len(),
                    sign,
                    &raw mut context,
                )
            }
        };
        match code {
            0 => Ok(()),
            // The server takes no signature that this key can make. Elsewhere this
            // code ends the connection.
            LIBSSH2_ERROR_METHOD_NONE => Err(ssh2::Error::new(
                ErrorCode::Session(LIBSSH2_ERROR_AUTHENTICATION_FAILED),
                "the host takes no signature of this key",
            )),
            code => Err(ssh2::Error::from_session_error(session, code)),
        }
    }

    fn signature(&self, data: &[u8]) -> Option<Vec<u8>> {
        let signature = (self.sign)(algorithm(data).ok()?, data)?;
        (!signature.is_empty()).then_some(signature)
    }
}

/// libssh2's callback: the signature goes out in memory from malloc(3), which libssh2
/// frees with its default allocator.
#[expect(
    unsafe_code,
    reason = "libssh2 calls it with valid pointers, and with the context of `step`"
)]
unsafe extern "C" fn sign(
    _session: *mut LIBSSH2_SESSION,
    signature: *mut *mut c_uchar,
    signature_length: *mut usize,
    data: *const c_uchar,
    data_length: usize,
    context: *mut *mut c_void,
) -> c_int {
    // SAFETY: `step` made the context, and what it points to outlives the call.
    let login = unsafe { *(*context).cast::<&PublicKeyLogin<'_>>() };
    // SAFETY: libssh2 frees the data after this call.
    let data = unsafe { std::slice::from_raw_parts(data, data_length) };
    // A panic must not unwind into C, which would end the whole run.
    let made = catch_unwind(AssertUnwindSafe(|| login.signature(data)));
    let Ok(Some(made)) = made else {
        login.has_failed.set(true);
        return LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED;
    };
    // SAFETY: malloc(3) takes any size, and the copy is as long as the memory.
    let memory = unsafe { libc::malloc(made.len()) }.cast::<c_uchar>();
    if memory.is_null() {
        return LIBSSH2_ERROR_ALLOC;
    }
    // SAFETY: the memory is as long as the signature, and the two places to write to
    // are libssh2's own.
    unsafe {
        std::ptr::copy_nonoverlapping(made.as_ptr(), memory, made.len());
        *signature = memory;
        *signature_length = made.len();
    }
    0
}

/// The algorithm that the signed data (RFC 4252, section 7) asks for. libssh2 has
/// chosen it: for RSA keys by the `server-sig-algs` of the server.
fn algorithm(mut data: &[u8]) -> encoding::Result<&[u8]> {
    let data = &mut data;
    data.drain_prefixed()?; // session identifier
    data.drain(1)?; // SSH_MSG_USERAUTH_REQUEST
    data.drain_prefixed()?; // user
    data.drain_prefixed()?; // service
    data.drain_prefixed()?; // method
    data.drain(1)?; // TRUE: a signature follows
    data.read_prefixed(|name| Ok(*name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(algorithm: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        let mut put = |string: &[u8]| {
            data.extend((string.len() as u32).to_be_bytes());
            data.extend(string);
        };
        put(&[7; 32]);
        let mut request = vec![50];
        for string in [&b"root"[..], b"ssh-connection", b"publickey"] {
            request.extend((string.len() as u32).to_be_bytes());
            request.extend(string);
        }
        request.push(1);
        request.extend((algorithm.len() as u32).to_be_bytes());
        request.extend(algorithm);
        data.extend(request);
        data
    }

    #[test]
    fn the_signed_data_names_the_algorithm() {
        let data = request(b"rsa-sha2-512");
        assert_eq!(algorithm(&data).unwrap(), b"rsa-sha2-512");
        for length in 0..data.len() {
            assert!(algorithm(&data[..length]).is_err());
        }
    }

    /// Calls the callback as libssh2 does.
    fn call(login: &PublicKeyLogin<'_>, data: &[u8]) -> Result<Vec<u8>, c_int> {
        let mut this = login;
        let mut context = (&raw mut this).cast::<c_void>();
        let (mut signature, mut length) = (std::ptr::null_mut(), 0);
        #[expect(unsafe_code, reason = "all pointers are ours, and live long enough")]
        unsafe {
            let (data, size) = (data.as_ptr(), data.len());
            let to = (&raw mut signature, &raw mut length);
            match sign(
                std::ptr::null_mut(),
                to.0,
                to.1,
                data,
                size,
                &raw mut context,
            ) {
                0 => {
                    let copy = std::slice::from_raw_parts(signature, length).to_vec();
                    libc::free(signature.cast());
                    Ok(copy)
                }
                error => Err(error),
            }
        }
    }

    #[test]
    fn the_callback_hands_over_the_signature() {
        let sign = |algorithm: &[u8], data: &[u8]| Some([algorithm, &data[..4]].concat());
        let login = PublicKeyLogin::new("root", b"", &sign).unwrap();
        let made = call(&login, &request(b"ssh-ed25519"));
        assert_eq!(made.unwrap(), b"ssh-ed25519\0\0\0\x20");
        assert!(!login.has_failed_to_sign());
    }

    #[test]
    fn neither_a_failure_nor_a_panic_reaches_c() {
        let fails: [&Sign<'_>; 3] = [&|_, _| None, &|_, _| Some(Vec::new()), &|_, _| {
            panic!("this panic belongs to the test")
        }];
        for sign in fails {
            let login = PublicKeyLogin::new("root", b"", sign).unwrap();
            let failed = call(&login, &request(b"ssh-ed25519"));
            assert_eq!(failed, Err(LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED));
            assert!(login.has_failed_to_sign());
        }
        let sign = |_: &[u8], _: &[u8]| Some(vec![1]);
        let login = PublicKeyLogin::new("root", b"", &sign).unwrap();
        assert!(call(&login, b"junk").is_err());
        assert!(PublicKeyLogin::new("ro\0ot", b"", &sign).is_err());
    }
}
