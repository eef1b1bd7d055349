//! The mode `-S`: files for all hosts, then the sync tool on all of them.

use std::collections::BTreeMap;

use crate::cluster::node::Order;
use crate::config::Sync;
use crate::error::Tree;
use crate::event::Level;
use crate::output::{Message, summary};
use crate::run::ending::Stop;
use crate::run::{Conduct, Run, State};

impl Run {
    /// Uploads, and runs the sync tool where that went well.
    pub(super) fn sync(&mut self, sync: Sync, conduct: Conduct<'_>) -> Result<(), Stop> {
        let mut has_run_directory = false;
        if let Some(upload) = sync.upload {
            has_run_directory = upload.run_directory.is_some();
            self.upload(upload, conduct)?;
        }
        self.command(sync.tool, has_run_directory, conduct)?;
        if has_run_directory {
            self.look_for_leftovers()?;
        }
        Ok(())
    }

    /// Says where files are left that were uploaded for the sync tool. (Who
    /// expected them in their place shall not have to look for them.)
    fn look_for_leftovers(&mut self) -> Result<(), Stop> {
        let nodes = self.nodes(|state| matches!(state, State::Finished(_)));
        for node in &nodes {
            self.cluster.order(*node, Order::LookIntoRunDirectory);
        }
        while nodes
            .iter()
            .any(|node| self.states[node.0].is_live() && !self.leftovers.contains_key(node))
        {
            self.next_event(None)?;
        }
        let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (node, left) in &self.leftovers {
            if let Some(path) = left {
                let name = self.targets[node.0].prefix.as_str();
                places.entry(path).or_default().push(name);
            }
        }
        if places.is_empty() {
            return Ok(());
        }
        let headline = "the sync tool has left files in run directories; --apply or -r / \
                        puts files in place";
        let tree = places
            .into_iter()
            .fold(Tree::new(headline), |tree, (path, mut names)| {
                names.sort_unstable();
                let count = summary::nodes(names.len());
                tree.because(format!("{path} ({count}): {}", names.join(", ")))
            });
        // Under -q too: without it the upload would have gone nowhere, silently.
        let level = Level::Warn;
        self.outlets
            .display
            .send(Message::Log { level, text: tree });
        Ok(())
    }
}
