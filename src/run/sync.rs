//! The mode `-S`: files for all hosts, then the sync tool on all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crossbeam_channel::unbounded;

use crate::cluster::job::{Job, Order, Protocol};
use crate::config::{Placing, Sync};
use crate::error::Tree;
use crate::event::{Level, Log, NodeId, Status};
use crate::exit_status::ExitStatus;
use crate::hosts::fold;
use crate::output::{Message, summary};
use crate::remote::command_line::Directory;
use crate::remote::place::DEFAULT_TOOL;
use crate::remote::protocol::{Names, Prefix};
use crate::remote::script::Script;
use crate::run::command::Tool;
use crate::run::coordinator::{self, Action, Coordinator};
use crate::run::preparation::random_bytes;
use crate::run::roster::{State, Step};
use crate::run::running::Run;
use crate::run::stop::Stop;

impl Run {
    /// Uploads, and runs the sync tool where that went well.
    pub(super) fn sync(&mut self, sync: Sync) -> Result<(), Stop> {
        let has_tool = !sync.is_default_tool || self.find_tool()?;
        let is_placing = match sync.placing {
            Placing::Never => false,
            Placing::InsteadOfTool => !has_tool,
            Placing::BeforeTool => true,
        };
        if !has_tool && !is_placing {
            return Err(self.no_tool());
        }
        if !has_tool && !sync.tool_options.is_empty() {
            let text = format!(
                "there is no sync tool on the hosts to make use of {}",
                sync.tool_options.join(" and ")
            );
            self.log(Level::Warn, text);
        }
        let mut has_run_directory = false;
        if let Some(upload) = sync.upload {
            has_run_directory = upload.directory == Directory::Run;
            self.upload(upload, false)?;
            self.judge_upload()?;
        }
        if is_placing {
            // It is a sync tool, and may take as long as one.
            let job = Arc::new(Job {
                timeout: sync.tool.timeout,
                ..Job::internal(Script::Place)
            });
            if !has_tool {
                return self.last_step(&job);
            }
            self.step(&job)?;
            self.judge_upload()?;
        }
        // What has been put in place is of no use in the run directory.
        let keeps_run_directory = has_run_directory && !is_placing;
        let protocol = match sync.speaks_protocol {
            true => Some(self.coordinate()?),
            false => None,
        };
        let tool = Tool {
            keeps_run_directory,
            protocol,
        };
        self.command(sync.tool, tool)
    }

    /// Whether the default tool is there: on all hosts, or on none.
    fn find_tool(&mut self) -> Result<bool, Stop> {
        let job = Arc::new(Job::internal(Script::FindTool));
        self.run_job(&job, Step::Search)?;
        self.roster.regroup();
        let missing = self.roster.without_tool();
        let mut found = self.roster.nodes(State::is_ready);
        found.retain(|node| !missing.contains(node));
        if !missing.is_empty() && !found.is_empty() {
            let names = missing
                .iter()
                .map(|node| self.targets[node.0].prefix.as_str());
            let headline = format!(
                "the sync tool {DEFAULT_TOOL} is missing on {} out of {}",
                missing.len(),
                summary::nodes(missing.len() + found.len())
            );
            self.log(Level::Fatal, Tree::new(headline).because(fold(names)));
            return Err(Stop::Failed(ExitStatus::Failed));
        }
        self.judge_upload()?;
        Ok(missing.is_empty())
    }

    fn no_tool(&self) -> Stop {
        let tree = Tree::new("there is nothing to run").because(format!(
            "the sync tool {DEFAULT_TOOL} is on none of the hosts: name another one with -n"
        ));
        self.log(Level::Fatal, tree);
        Stop::Failed(ExitStatus::Failed)
    }

    /// Starts the coordinator of the tools on all hosts that are ready.
    fn coordinate(&self) -> Result<Protocol, Stop> {
        let prefix = Prefix::new(random_bytes()?);
        let nodes = self.roster.nodes(State::is_ready);
        let named = |node: &NodeId| (*node, self.targets[node.0].node());
        let names: Names = nodes.iter().map(|node| named(node).1).collect();
        let is_loose = self.roster.policy().is_loose;
        let machine = Coordinator::new(prefix.clone(), nodes.iter().map(named), is_loose);
        let couriers: HashMap<NodeId, _> = nodes
            .iter()
            .filter_map(|node| Some((*node, self.cluster.courier(*node)?)))
            .collect();
        let tell = move |node: NodeId, order: Order| {
            if let Some(courier) = couriers.get(&node) {
                courier.order(order);
            }
        };
        let display = self.console.display.clone();
        // Unbounded, see `Protocol`.
        let (events, received) = unbounded();
        coordinator::spawn(machine, received, move |action| match action {
            Action::Send(node, text) => tell(node, Order::Tell(text)),
            Action::Cancel(_) => nodes.iter().for_each(|node| tell(*node, Order::Close)),
            Action::Stop(node) => {
                let reason = "the sync tool said too much before all others had been started";
                tell(node, Order::FailTool(reason.into()));
            }
            Action::TellSilence => {
                let hint = "no sync tool has said SYNC yet; a plain command needs -m";
                display.log(Level::Info, hint.into());
            }
        })
        .map_err(|error| {
            let tree = Tree::new("can't start another thread");
            Stop::Local(tree.because(Tree::from_error(&error)))
        })?;
        Ok(Protocol {
            prefix,
            names: Arc::new(names),
            events,
        })
    }

    /// Says where files are left that were uploaded for the sync tool, if they are.
    /// (Who expected them in their place shall not have to look for them.)
    pub(super) fn tell_leftovers(&self) {
        let is_ok = |(node, _): &(NodeId, String)| {
            let outcome = self.roster.outcome(*node);
            outcome.is_some_and(|outcome| outcome.status == Status::Ok)
        };
        let name = |node: NodeId| self.targets[node.0].prefix.as_str();
        let left = self.roster.leftovers();
        let tool_is_ok = left.iter().all(is_ok);
        let Some(text) = leftovers(left, name, tool_is_ok) else {
            return;
        };
        // Under -q too: without it the upload would have gone nowhere, silently.
        let level = Level::Warn;
        self.console.display.send(Message::Log { level, text });
    }
}

/// What there is to say about files that are left, which were told of in any order.
fn leftovers<'a>(
    left: &[(NodeId, String)],
    name: impl Fn(NodeId) -> &'a str,
    tool_is_ok: bool,
) -> Option<Tree> {
    let mut left: Vec<_> = left.iter().collect();
    left.sort_by_key(|(node, _)| node.0);
    let mut places: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (node, path) in left {
        places.entry(path).or_default().push(name(*node));
    }
    if places.is_empty() {
        return None;
    }
    let mut headline = "the sync tool has left files in run directories".to_owned();
    if tool_is_ok {
        headline.push_str("; --apply or -r / puts files in place");
    }
    let places = places.into_iter().map(|(path, names)| {
        let count = summary::nodes(names.len());
        format!("{path} ({count}): {}", fold(names))
    });
    Some(places.fold(Tree::new(headline), Tree::because))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_are_told_in_target_order_with_advice_where_it_helps() {
        let name = |node: NodeId| ["db", "web", "app"][node.0];
        let left = [2, 0, 1].map(|node| (NodeId(node), "/run/x".to_owned()));
        let told = |is_ok| leftovers(&left, name, is_ok).unwrap().flat();
        let places = "/run/x (3 nodes): db,web,app";
        let headline = "the sync tool has left files in run directories";
        assert_eq!(told(false), format!("{headline}: {places}"));
        let advice = "--apply or -r / puts files in place";
        assert_eq!(told(true), format!("{headline}; {advice}: {places}"));
        assert_eq!(leftovers(&[], name, true), None);
    }
}
