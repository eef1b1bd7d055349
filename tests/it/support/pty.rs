//! The program on a terminal of its own, for what happens only there.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcgetwinsize, tcsetwinsize};

use super::{LIMIT, Orgalorg, has_ended};
use crate::hosts::{holds_within, wait_until};

/// A program whose stdin, stdout, stderr and controlling terminal are a
/// pseudo-terminal that the test reads and types on.
pub(crate) struct OnTerminal {
    pub(crate) child: Child,
    master: File,
    /// Kept open, so that the settings of the terminal can be looked at after
    /// the program has ended.
    slave: Option<OwnedFd>,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Ends when nobody has the terminal open any more.
    reader: JoinHandle<()>,
}

impl Orgalorg {
    /// Starts it on a terminal of 80 columns and 24 lines; `redirect` may point
    /// some of its descriptors elsewhere.
    #[expect(unsafe_code, reason = "the terminal is taken between fork and exec")]
    pub(crate) fn on_terminal(
        self,
        redirect: impl FnOnce(&mut std::process::Command),
    ) -> OnTerminal {
        let mut command = self.command;
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a pseudo-terminal");
        grantpt(&master).expect("grantpt");
        unlockpt(&master).expect("unlockpt");
        let name = ptsname(&master, Vec::new()).expect("ptsname");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let slave = open(&name, flags, Mode::empty()).expect("the terminal's other side");
        tcsetwinsize(
            &slave,
            Winsize {
                ws_row: 24,
                ws_col: 80,
                ws_xpixel: 0,
                ws_ypixel: 0,
            },
        )
        .expect("the size can be set");
        let copy = || Stdio::from(slave.try_clone().expect("dup"));
        command.stdin(copy()).stdout(copy()).stderr(copy());
        command.env("TERM", "xterm");
        redirect(&mut command);
        let controlling = slave.try_clone().expect("dup");
        // SAFETY: system calls only.
        unsafe {
            command.pre_exec(move || {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(controlling.as_fd())?;
                Ok(())
            });
        }
        let child = command.spawn().expect("the program can be started");
        // The command holds descriptors of the terminal.
        drop(command);
        let master = File::from(master);
        let screen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&screen);
        let mut source = master.try_clone().expect("dup");
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = source.read(&mut buffer) {
                sink.lock().unwrap().extend_from_slice(&buffer[..read]);
            }
        });
        OnTerminal {
            child,
            master,
            slave: Some(slave),
            screen,
            reader,
        }
    }
}

impl OnTerminal {
    /// All that was written to the terminal so far (lines end with CR LF).
    pub(crate) fn screen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    /// Waits until the screen shows a text.
    #[track_caller]
    pub(crate) fn expect(&self, text: &str) {
        assert!(
            holds_within(LIMIT, || self.screen().contains(text)),
            "the screen does not show {text:?}:\n{}",
            self.screen()
        );
    }

    /// Makes it as wide as this.
    pub(crate) fn resize(&self, columns: u16) {
        let slave = self.slave.as_ref().expect("it is open until the end");
        let mut size = tcgetwinsize(slave).expect("the size can be read");
        size.ws_col = columns;
        tcsetwinsize(slave, size).expect("the size can be set");
    }

    /// Types something. Ctrl-C is `"\x03"`.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.master
            .write_all(text.as_bytes())
            .expect("the terminal can be typed on");
    }

    /// Whether the terminal shows what is typed, as it should when nobody asks
    /// for a secret.
    pub(crate) fn echoes(&self) -> bool {
        let slave = self.slave.as_ref().expect("it is open until the end");
        let settings = tcgetattr(slave).expect("the settings can be read");
        settings
            .local_modes
            .contains(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG)
    }

    /// Waits until the program has ended. What comes back is what it wrote but for
    /// the status bar, which must be gone.
    #[track_caller]
    pub(crate) fn finish(self) -> (ExitStatus, String) {
        let (status, written) = self.finish_with_bar();
        (status, without_bar(&written))
    }

    /// The same with every byte that was written.
    #[track_caller]
    pub(crate) fn finish_with_bar(mut self) -> (ExitStatus, String) {
        assert!(
            holds_within(LIMIT, || has_ended(&self.child)),
            "orgalorg does not end:\n{}",
            self.screen()
        );
        assert!(self.echoes(), "the terminal was left in disorder");
        // The reader reaches the end only when nobody has the terminal open any more.
        self.slave = None;
        wait_until("the end of the terminal", LIMIT, || {
            self.reader.is_finished()
        });
        let status = self.child.wait().expect("a child can be waited for");
        (status, self.screen())
    }
}

/// Takes the status bar out of what was written to a terminal, each time that it
/// was drawn.
pub(crate) fn without_bar(written: &str) -> String {
    let mut rest = written.to_owned();
    // The bar leaves the cursor at its beginning, and is erased from there on.
    let erased = "\r\r\x1b[J";
    while let Some(end) = rest.find(erased) {
        let begin = rest[..end].rfind('\n').map_or(0, |at| at + 1);
        rest.replace_range(begin..end + erased.len(), "");
    }
    // Erased to be sure, with nothing there.
    rest.replace("\r\x1b[J", "")
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
