//! Everything that goes to stdout and stderr.
//!
//! Other threads send [`Message`]s through a [`Display`]. The [`printer`] thread
//! receives them, and lets a [`renderer`] turn them into bytes in a [`writer`],
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

pub(crate) mod backlog;
pub(crate) mod bar_state;
pub(crate) mod credit;
pub(crate) mod descriptors;
pub(crate) mod display;
pub(crate) mod error;
pub(crate) mod files;
pub(crate) mod folded;
pub(crate) mod grouped;
pub(crate) mod json;
pub(crate) mod lines;
pub(crate) mod logs;
pub(crate) mod message;
pub(crate) mod pending_logs;
pub(crate) mod printer;
pub(crate) mod renderer;
pub(crate) mod sanitize;
pub(crate) mod screen;
pub(crate) mod size;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod summary;
pub(crate) mod template;
pub(crate) mod text;
pub(crate) mod theme;
pub(crate) mod tree;
pub(crate) mod writer;

pub(crate) use display::Display;
pub(crate) use error::OutputError;
pub(crate) use message::{Message, Phase, Progress};
