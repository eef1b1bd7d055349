//! Compression of an archive: once, for all hosts.

use std::fs::File;
use std::io::{self, Write};

use flate2::write::GzEncoder;

use super::sink::{Sink, SinkError, read_into};

/// How an upload is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// As gzip(1) does it, which every host can unpack.
    Gzip,
    /// As zstd(1) does it: faster, and smaller.
    Zstd,
}

impl Compression {
    /// The program that unpacks it.
    #[must_use]
    pub(crate) fn program(self) -> &'static str {
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

/// So much is read at once of what is to be compressed.
const BUFFER: usize = 128 * 1024;

/// Compresses, or does not, what is written to it.
pub(crate) struct Encoder<W: Write> {
    method: Method<W>,
    /// What has been read of a file.
    buffer: Vec<u8>,
}

enum Method<W: Write> {
    /// Passes it on.
    Plain(W),
    Gzip(GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    /// Writes to `out`.
    ///
    /// # Errors
    /// No memory for zstd's tables.
    pub(crate) fn new(compression: Option<Compression>, out: W) -> io::Result<Self> {
        let method = match compression {
            None => Method::Plain(out),
            Some(Compression::Gzip) => Method::Gzip(GzEncoder::new(out, GZIP_LEVEL)),
            Some(Compression::Zstd) => Method::Zstd(zstd::Encoder::new(out, ZSTD_LEVEL)?),
        };
        let buffer = match compression {
            None => Vec::new(),
            Some(_) => Vec::with_capacity(BUFFER),
        };
        Ok(Self { method, buffer })
    }

    /// What it is written to.
    pub(crate) fn get_mut(&mut self) -> &mut W {
        match &mut self.method {
            Method::Plain(out) => out,
            Method::Gzip(encoder) => encoder.get_mut(),
            Method::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// Writes what is left, and gives back what it was written to.
    ///
    /// # Errors
    /// It is not taken.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.method {
            Method::Plain(out) => Ok(out),
            Method::Gzip(encoder) => encoder.finish(),
            Method::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.method {
            Method::Plain(out) => out.write(bytes),
            Method::Gzip(encoder) => encoder.write(bytes),
            Method::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.method {
            Method::Plain(out) => out.flush(),
            Method::Gzip(encoder) => encoder.flush(),
            Method::Zstd(encoder) => encoder.flush(),
        }
    }
}

impl<W: Sink> Sink for Encoder<W> {
    fn take(&mut self, file: &File, most: u64) -> Result<usize, SinkError> {
        if let Method::Plain(out) = &mut self.method {
            return out.take(file, most);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let taken = read_into(&mut buffer, file, most)?;
        let written = self.write_all(&buffer);
        self.buffer = buffer;
        written.map_err(SinkError::NotTaken)?;
        Ok(taken)
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
