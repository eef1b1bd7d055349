//! Random bytes, for words that nobody can guess and for pauses that differ.

use std::io;

/// Random bytes from the system.
///
/// # Errors
/// The system has none to give.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        let why = format!("the system gives no random numbers: {error}");
        io::Error::other(why)
    })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_are_the_same() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
    }
}
