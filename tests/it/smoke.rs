//! The plainest things, on real hosts: if these fail, look here first.

use crate::hosts::Hosts;
use crate::support::{orgalorg, targets};

#[test]
fn a_command_runs_on_every_host() {
    let hosts = Hosts::start(3);
    let mut arguments = targets(&hosts);
    arguments.extend(["-C", "hostname"].map(str::to_owned));
    let finished = orgalorg(&hosts, arguments).run().ok();
    assert_eq!(finished.sorted(), ["web1 web1", "web2 web2", "web3 web3"]);
}

#[test]
fn on_a_terminal_the_same_lines_appear() {
    let hosts = Hosts::start(1);
    let terminal = orgalorg(&hosts, ["-o", "web1", "-C", "hostname"]).on_terminal(|_| ());
    let (status, screen) = terminal.finish();
    assert!(status.success(), "{screen}");
    assert_eq!(screen, "\u{1b}[36mweb1\u{1b}[0m web1\r\n");
}
