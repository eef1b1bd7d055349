//! Compression of an archive: once, for all hosts.

use std::io::{self, Write};

use flate2::write::GzEncoder;

/// How an upload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As gzip(1) does it, which every host can unpack.
    Gzip,
    /// As zstd(1) does it: faster, and smaller.
    Zstd,
}

impl Compression {
    /// The program that unpacks it.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// Fast: encryption and the network are waiting.
const GZIP_LEVEL: flate2::Compression = flate2::Compression::new(2);

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;

/// Compresses, or does not, what is written to it.
pub enum Encoder<W: Write> {
    /// Passes it on.
    Plain(W),
    /// See [`Compression::Gzip`].
    Gzip(GzEncoder<W>),
    /// See [`Compression::Zstd`].
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// No memory for zstd's tables.
    pub fn new(compression: Option<Compression>, out: W) -> io::Result<Self> {
        Ok(match compression {
            None => Self::Plain(out),
            Some(Compression::Gzip) => Self::Gzip(GzEncoder::new(out, GZIP_LEVEL)),
            Some(Compression::Zstd) => Self::Zstd(zstd::Encoder::new(out, ZSTD_LEVEL)?),
        })
    }

    /// What it is written to.
    pub fn get_mut(&mut self) -> &mut W {
        match self {
            Self::Plain(out) => out,
            Self::Gzip(encoder) => encoder.get_mut(),
            Self::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// Writes what is left, and gives back what it was written to.
    ///
    /// # Errors
    /// It is not taken.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(out) => Ok(out),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_programs_of_the_hosts_unpack_it() {
        let text = "some text, again and again\n".repeat(10_000);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let mut encoder = Encoder::new(Some(compression), Vec::new()).expect("an encoder");
            encoder.write_all(text.as_bytes()).expect("memory");
            let packed = encoder.finish().expect("memory");
            assert!(packed.len() < text.len() / 10, "{}", packed.len());
            let mut child = Command::new(compression.program())
                .arg("-dc")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("it is installed");
            let mut stdin = child.stdin.take().expect("piped");
            let writer = std::thread::spawn(move || stdin.write_all(&packed));
            let output = child.wait_with_output().expect("it ends");
            writer.join().expect("no panic").expect("it reads");
            assert_eq!(output.stdout, text.as_bytes());
        }
    }
}
