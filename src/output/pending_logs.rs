//! Log lines that the printer has not written, for a process that must end while the
//! printer is blocked by a stdout that nobody reads.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use crate::output::bar_state::BarState;
use crate::output::descriptors::write_at_once;
use crate::output::message::Message;
use crate::output::renderer::Renderer;
use crate::output::writer::Writer;

/// A second way out of the printer's queue.
pub(crate) struct PendingLogs {
    renderer: Box<dyn Renderer>,
    messages: Receiver<Message>,
    bar: Arc<BarState>,
}

impl PendingLogs {
    /// Reads from the printer's queue; `renderer` lays out the log lines.
    #[must_use]
    pub(crate) fn new(
        renderer: Box<dyn Renderer>,
        messages: Receiver<Message>,
        bar: Arc<BarState>,
    ) -> Self {
        Self {
            renderer,
            messages,
            bar,
        }
    }

    /// Writes the log lines that wait in the queue to stderr, without blocking. Output
    /// of hosts in the queue is lost.
    pub(crate) fn write(&mut self) {
        self.bar.wipe();
        let mut writer = Writer::in_memory();
        for message in self.messages.try_iter() {
            if let Message::Log { level, text } = message {
                self.renderer.log(level, &text, &mut writer);
            }
        }
        write_at_once(&writer.stderr);
    }
}
