//! What an upload keeps for the hosts that have not been sent anything yet.

use crate::cluster::stream::{Outlet, Stream};
use crate::event::NodeId;

/// What an upload keeps for the hosts that have not been sent anything yet.
#[derive(Default)]
pub(super) struct Delivery {
    /// The stream of an upload that was never begun. It is kept to the end of the run:
    /// hosts that wait for it are to be told to stop, and not that it is gone.
    pub(super) unsent: Option<Stream>,
    /// The hosts that wait for another one to take the upload.
    pub(super) followers: Vec<Follower>,
}

/// A target that is the same directory of the same machine as one before it.
#[derive(Debug)]
pub(super) struct Follower {
    /// The one that takes the archive.
    pub(super) leader: NodeId,
    pub(super) outlet: Outlet,
}
