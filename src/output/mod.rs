//! Everything that goes to stdout and stderr.
//!
//! Other threads send [`Message`]s through a [`Display`]. The [`printer`] thread
//! receives them, and lets a [`Renderer`] turn them into bytes in a [`Writer`],
//! which owns the [`screen`] (the two descriptors) and the [`status`] bar on it.
//!
//! - Displays: [`text`], [`grouped`] (`-l`), [`folded`] (`--fold`), [`json`].
//! - What they share: [`lines`] cuts bytes into lines, [`store`] keeps output,
//!   [`logs`] and [`tree`] lay out log lines, [`sanitize`] makes remote bytes safe
//!   for a terminal, [`template`] and [`theme`] are the user's formats and colours,
//!   [`size`] formats numbers of bytes.
//! - Bounds: [`credit`] limits the bytes on their way from a node, [`backlog`] holds
//!   credit back where kept output has no room.
//! - Beside the displays: [`files`] (`--output-dir`), [`summary`] (failures grouped by
//!   cause), [`pending_logs`] (log lines that a blocked printer has not written).

pub mod backlog;
pub mod bar_state;
pub mod credit;
pub mod descriptors;
pub mod display;
pub mod error;
pub mod files;
pub mod folded;
pub mod grouped;
pub mod json;
pub mod lines;
pub mod logs;
pub mod message;
pub mod pending_logs;
pub mod printer;
pub mod renderer;
pub mod sanitize;
pub mod screen;
pub mod size;
pub mod status;
pub mod store;
pub mod summary;
pub mod template;
pub mod text;
pub mod theme;
pub mod tree;
pub mod writer;

pub use display::Display;
pub use error::OutputError;
pub use message::{Message, Phase, Progress};
pub use renderer::{Fate, NodeLabel, Renderer, Sink};
pub use writer::Writer;
