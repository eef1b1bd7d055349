//! Every example of the README is run, as it stands there.

use std::path::PathBuf;
use std::process::Output;

use crate::hosts::Hosts;
use crate::support::{furnish_home, program};

/// The blocks of README.md that are marked as `sh`.
fn examples() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let readme = std::fs::read_to_string(path).expect("README.md can be read");
    readme
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(str::to_owned)
        .collect()
}

fn run(hosts: &Hosts, example: &str) -> Output {
    let directory = program().parent().map(PathBuf::from).unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    hosts
        .client("bash")
        .args(["-c", example])
        .current_dir(hosts.home())
        .env("PATH", format!("{}:{path}", directory.display()))
        .output()
        .expect("bash can be run")
}

#[test]
fn every_example_works() {
    let hosts = Hosts::builder()
        .names(["web1", "web2", "web3", "db1"])
        .start();
    furnish_home(&hosts);
    let examples = examples();
    assert!(examples.len() >= 10, "only {} found", examples.len());
    for example in examples {
        let output = run(&hosts, &example);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{example}{}\n{stdout}{stderr}",
            output.status
        );
        let is_upload = example.contains(" -U ");
        let is_silent = example.contains("-C true") || is_upload;
        assert_eq!(stdout.is_empty(), is_silent, "{example}{stdout}");
        // Only the example with a host that is not there complains, and uploads tell
        // how far they are.
        let is_told = is_upload || (example.contains(" -S ") && !example.contains(" -q "));
        assert_eq!(
            !stderr.is_empty(),
            example.contains("nosuchhost") || is_told,
            "{example}{stderr}"
        );
    }
}

#[test]
fn examples_do_what_the_text_around_them_says() {
    let hosts = Hosts::builder()
        .names(["web1", "web2", "web3", "db1"])
        .start();
    furnish_home(&hosts);
    for (part, expected) in [
        ("--exclude web2", vec!["db1 db1", "web1 web1", "web3 web3"]),
        ("-s --list", vec!["[root@web1:22]", "[root@web2:22]"]),
        (
            "-u ops -x",
            vec![
                "web1 /var/log",
                "web1 root",
                "web2 /var/log",
                "web2 root",
                "web3 /var/log",
                "web3 root",
            ],
        ),
        ("-S site", vec!["site/index.html:hello"; 3]),
        (
            "script.sh",
            vec!["web1 I am web1", "web2 I am web2", "web3 I am web3"],
        ),
    ] {
        let found: Vec<String> = examples()
            .into_iter()
            .filter(|example| example.contains(part))
            .collect();
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        let output = run(&hosts, &found[0]);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let mut lines: Vec<&str> = stdout.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, expected, "{}", found[0]);
    }
}
