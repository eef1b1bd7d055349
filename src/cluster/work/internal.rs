//! A script of ours that is no upload: it looks for the sync tool, or puts files in
//! place.

use super::kind::{Kind, Verdict};
use crate::cluster::output_port::OutputPort;
use crate::event::{Status, Stream};
use crate::remote::words::{Complaint, Prelude};
use crate::ssh::process::{Exit, Supply};

/// A script of ours.
pub(crate) struct InternalWork {
    port: OutputPort,
    /// What the login shell says before the script.
    prelude: Prelude,
    complaint: Complaint,
    /// It puts files in place, so its failure is one of the upload.
    is_placing: bool,
}

impl InternalWork {
    pub(super) fn new(port: OutputPort, is_placing: bool) -> Self {
        Self {
            port,
            prelude: Prelude::default(),
            complaint: Complaint::default(),
            is_placing,
        }
    }

    fn show(&mut self, stream: Stream, bytes: Vec<u8>) {
        if stream == Stream::Stderr {
            self.complaint.hear(&bytes);
        }
        self.port.print(stream, bytes);
    }
}

impl Kind for InternalWork {
    fn port(&self) -> &OutputPort {
        &self.port
    }

    fn output(&mut self, stream: Stream, bytes: Vec<u8>) {
        let bytes = self.prelude.pass(stream, bytes);
        self.show(stream, bytes);
    }

    fn input(&mut self, _buffer: &mut Vec<u8>) -> Supply {
        Supply::End
    }

    fn last_words(&self) -> String {
        match self.prelude.last_line(Stream::Stderr) {
            Some(line) => line,
            None => self.complaint.last_line(),
        }
    }

    fn finish(&mut self, by_itself: bool) {
        for (stream, instead) in self.prelude.finish() {
            if by_itself {
                self.show(stream, instead);
            }
        }
        self.port.end();
    }

    fn verdict(&self, exit: &Exit) -> Verdict {
        let status = match exit {
            Exit::Status(0) => return (Status::Ok, None),
            Exit::Status(code) => Status::Exit(*code),
            Exit::Signal(name) => Status::Signal(name.clone()),
        };
        if !self.is_placing {
            return (status, None);
        }
        let reason = self.complaint.reason(&self.last_words());
        let reason = reason.unwrap_or_else(|| match exit {
            Exit::Status(code) => format!("can't put it in place: code {code}").into(),
            Exit::Signal(name) => format!("can't put it in place: signal {name}").into(),
        });
        (Status::Upload, Some(reason))
    }
}
