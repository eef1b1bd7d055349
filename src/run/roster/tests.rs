use super::*;
use crate::event::HostKey;
use crate::run::schedule::Schedule;
use proptest::prelude::*;
use std::collections::BTreeMap;

const FIRST: NodeId = NodeId(0);
const SECOND: NodeId = NodeId(1);
const THIRD: NodeId = NodeId(2);

/// No option that changes anything.
const STRICT: Policy = Policy {
    lock_is_optional: false,
    loss_is_lock_loss: false,
    is_loose: false,
    fail_fast: false,
    only_locks: false,
};

/// As of an upload.
const CHANGE: Policy = Policy {
    loss_is_lock_loss: true,
    ..STRICT
};

const LAST: Step = Step::Command { is_last: true };

fn ok() -> Outcome {
    Outcome {
        status: Status::Ok,
        ..Outcome::cancelled()
    }
}

fn ended_with(status: Status) -> Outcome {
    Outcome::failed(status, "a reason".into())
}

fn exit(code: i32) -> Outcome {
    ended_with(Status::Exit(code))
}

fn lost() -> NodeEvent {
    NodeEvent::Ended(ended_with(Status::Connection))
}

fn key() -> HostKey {
    HostKey {
        blob: vec![1],
        algorithm: "ssh-ed25519".to_owned(),
        fingerprint: "SHA256:x".to_owned(),
    }
}

fn identity(name: &str) -> Identity {
    Identity(name.to_owned())
}

impl Roster {
    /// A node says something about what it is at.
    fn say(&mut self, id: NodeId, event: NodeEvent) -> Reactions {
        self.on(id, self.nodes[id.0].attempt, event)
    }

    /// A node begins something, and says this.
    fn play(&mut self, id: NodeId, activity: Activity, event: NodeEvent) -> Reactions {
        self.begin(id, activity).expect("it is there");
        self.say(id, event)
    }

    /// A node runs a command, which has not ended.
    fn run(&mut self, id: NodeId) {
        assert_eq!(self.play(id, Activity::Run, NodeEvent::Started), []);
    }
}

/// Three nodes that are connected and locked, at this step.
fn ready(policy: Policy, step: Step) -> Roster {
    let mut roster = Roster::new(3, policy);
    for id in [FIRST, SECOND, THIRD] {
        let locked = Some(identity(&format!("boot:{}", id.0)));
        assert_eq!(roster.play(id, Activity::Connect, NodeEvent::Connected), []);
        assert_eq!(
            roster.play(id, Activity::Lock, NodeEvent::Guarded(locked)),
            []
        );
    }
    roster.enter(step);
    roster
}

/// As [`ready`], with a command running on all nodes.
fn running(policy: Policy, step: Step) -> Roster {
    let mut roster = ready(policy, step);
    for id in [FIRST, SECOND, THIRD] {
        roster.run(id);
    }
    roster
}

fn stops(reactions: &[Reaction]) -> Option<&Reason> {
    reactions.iter().find_map(|reaction| match reaction {
        Reaction::Stop(reason) => Some(reason),
        _ => None,
    })
}

#[test]
fn a_host_that_has_done_the_last_step_has_its_result_at_once() {
    let mut roster = running(STRICT, LAST);
    let reactions = roster.say(FIRST, NodeEvent::Finished(exit(17)));
    let logged_and_told = [Reaction::LogEnd(exit(17)), Reaction::Result(exit(17))];
    assert_eq!(reactions, logged_and_told);
    // How it parts does not matter, except to the user.
    let loss = ended_with(Status::Connection);
    let reactions = roster.say(FIRST, NodeEvent::Ended(loss.clone()));
    assert_eq!(reactions, [Reaction::WarnOfLoss(loss)]);
    assert_eq!(roster.outcome(FIRST), Some(&exit(17)));
}

#[test]
fn a_host_that_has_done_another_step_waits_for_the_others() {
    let mut roster = running(STRICT, Step::Command { is_last: false });
    let reactions = roster.say(FIRST, NodeEvent::Finished(ok()));
    assert_eq!(reactions, [Reaction::LogEnd(ok())]);
    assert_eq!(roster.outcome(FIRST), None);
    roster.say(SECOND, NodeEvent::Finished(exit(1)));
    roster.regroup();
    assert_eq!(roster.nodes(State::is_ready), [FIRST]);
    assert!(!roster.may_go_on());
}

#[test]
fn events_of_an_earlier_attempt_change_nothing() {
    let mut roster = running(STRICT, LAST);
    let before = format!("{roster:?}");
    let earlier = Attempt(roster.nodes[0].attempt.0 - 1);
    let stale = [
        NodeEvent::Finished(exit(1)),
        NodeEvent::Guarded(None),
        NodeEvent::Connected,
        NodeEvent::Uploaded(ok()),
    ];
    for event in stale {
        assert!(!roster.hears(FIRST, earlier, &event));
        assert_eq!(roster.on(FIRST, earlier, event), []);
    }
    assert_eq!(format!("{roster:?}"), before);
}

#[test]
fn events_about_the_connection_count_under_every_attempt() {
    let mut roster = running(STRICT, LAST);
    let first = Attempt(1);
    roster.on(FIRST, first, NodeEvent::Left("/run/x".to_owned()));
    roster.on(FIRST, first, NodeEvent::NotLetGo);
    let problem = || Tree::new("is a directory");
    let reactions = roster.on(FIRST, first, NodeEvent::InputFailed(problem()));
    assert_eq!(stops(&reactions), Some(&Reason::Input(problem())));
    let reactions = roster.on(FIRST, first, NodeEvent::LockLost("gone".into()));
    assert_eq!(stops(&reactions), Some(&Reason::LockLost));
    assert!(!roster.on(FIRST, first, lost()).is_empty());
    assert_eq!(roster.leftovers(), [(FIRST, "/run/x".to_owned())]);
    assert!(roster.unconfirmed().contains(&FIRST));
}

#[test]
fn nothing_is_heard_of_a_host_that_has_ended() {
    let mut roster = running(STRICT, LAST);
    roster.say(FIRST, lost());
    let before = format!("{roster:?}");
    for event in [
        NodeEvent::Finished(ok()),
        NodeEvent::LockLost("gone".into()),
        NodeEvent::NotLetGo,
        lost(),
    ] {
        assert_eq!(roster.say(FIRST, event), []);
    }
    assert_eq!(roster.begin(FIRST, Activity::Run), None);
    assert_eq!(format!("{roster:?}"), before);
}

#[test]
fn a_guard_that_only_ends_commands_says_nothing_about_the_command() {
    let mut roster = running(STRICT, LAST);
    assert_eq!(roster.say(FIRST, NodeEvent::Guarded(None)), []);
    assert!(roster.state(FIRST).is_running());
    let reactions = roster.say(FIRST, NodeEvent::Finished(ok()));
    assert_eq!(reactions.last(), Some(&Reaction::Result(ok())));
}

#[test]
fn an_unknown_key_is_asked_about_once() {
    let mut roster = Roster::new(3, STRICT);
    for id in [SECOND, FIRST, THIRD] {
        roster.play(id, Activity::Connect, NodeEvent::UnknownHostKey(key()));
    }
    let nodes: Vec<NodeId> = roster
        .unknown_keys()
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(nodes, [FIRST, SECOND, THIRD]);
    roster.trust(FIRST);
    roster.distrust(SECOND);
    assert_eq!(roster.unknown_keys(), [(THIRD, &key())]);
    // One waits for its turn, the other ends.
    assert!(roster.state(FIRST).is_trusted());
    roster.play(FIRST, Activity::Connect, NodeEvent::Connected);
    assert!(roster.state(FIRST).is_connected());
    roster.say(SECOND, NodeEvent::Ended(ended_with(Status::HostKey)));
    assert_eq!(roster.judge().fatal, [SECOND]);
}

#[test]
fn a_host_that_was_given_up_may_say_what_it_likes() {
    let mut roster = Roster::new(1, STRICT);
    let attempt = roster.begin(FIRST, Activity::Connect).expect("it is there");
    let given_up = ended_with(Status::Unreachable);
    let reactions = roster.give_up(FIRST, given_up.clone());
    assert_eq!(reactions, [Reaction::LogEnd(given_up.clone())]);
    assert_eq!(roster.on(FIRST, attempt, NodeEvent::Connected), []);
    assert_eq!(roster.give_up(FIRST, ended_with(Status::Auth)), []);
    assert_eq!(roster.outcome(FIRST), Some(&given_up));
}

#[test]
fn a_lost_lock_stops_the_run_and_counts_more_than_the_result() {
    let mut roster = running(STRICT, LAST);
    roster.say(FIRST, NodeEvent::Finished(ok()));
    for id in [FIRST, SECOND] {
        let reactions = roster.say(id, NodeEvent::LockLost("gone".into()));
        let log = Reaction::LogLostLock {
            reason: "gone".into(),
            is_fatal: true,
        };
        assert_eq!(reactions, [log, Reaction::Stop(Reason::LockLost)]);
    }
    let told: Vec<_> = roster.close().expect("for the first time");
    let statuses: Vec<&Status> = told.iter().map(|(_, outcome)| &outcome.status).collect();
    // That of the first one was out.
    assert_eq!(statuses, [&Status::LockLost, &Status::Cancelled]);
    roster.cut_off();
    let statuses = roster.outcomes().into_iter();
    let statuses: Vec<&Status> = statuses.map(|(_, outcome)| &outcome.status).collect();
    let expected = [&Status::LockLost, &Status::LockLost, &Status::Cancelled];
    assert_eq!(statuses, expected);
}

#[test]
fn a_lost_lock_that_is_optional_is_a_warning() {
    let policy = Policy {
        lock_is_optional: true,
        ..CHANGE
    };
    let mut roster = running(policy, LAST);
    let reactions = roster.say(FIRST, NodeEvent::LockLost("gone".into()));
    let log = |reason: &str| Reaction::LogLostLock {
        reason: reason.into(),
        is_fatal: false,
    };
    assert_eq!(reactions, [log("gone")]);
    let reactions = roster.say(FIRST, NodeEvent::Finished(ok()));
    assert_eq!(reactions.last(), Some(&Reaction::Result(ok())));
    let outcome = ended_with(Status::Connection);
    let reactions = roster.say(SECOND, NodeEvent::Ended(outcome.clone()));
    let expected = [
        Reaction::LogEnd(outcome.clone()),
        log("a reason"),
        Reaction::Result(outcome),
    ];
    assert_eq!(reactions, expected);
}

#[test]
fn in_a_change_a_lost_connection_is_a_lost_lock_once_all_are_locked() {
    let mut roster = ready(CHANGE, Step::Admission);
    assert_eq!(stops(&roster.say(FIRST, lost())), None);
    for step in [
        Step::Search,
        Step::Upload { is_last: false },
        LAST,
        Step::Tools,
    ] {
        let mut roster = running(CHANGE, step);
        let reactions = roster.say(FIRST, lost());
        assert_eq!(stops(&reactions), Some(&Reason::LockLost), "{step:?}");
        // It is told as what it is, when all is over.
        assert!(
            !reactions
                .iter()
                .any(|reaction| matches!(reaction, Reaction::Result(_)))
        );
        let mut roster = running(STRICT, step);
        assert_ne!(stops(&roster.say(FIRST, lost())), Some(&Reason::LockLost));
    }
}

#[test]
fn a_host_that_is_lost_at_work_is_named_at_once() {
    let loss = ended_with(Status::Connection);
    let mut roster = running(STRICT, LAST);
    let reactions = roster.say(FIRST, NodeEvent::Ended(loss.clone()));
    let expected = [
        Reaction::LogLoss(loss.clone()),
        Reaction::LogEnd(loss.clone()),
        Reaction::Result(loss),
    ];
    assert_eq!(reactions, expected);
}

#[test]
fn while_locks_are_held_any_end_is_a_lost_lock() {
    let policy = Policy {
        only_locks: true,
        ..STRICT
    };
    let mut roster = ready(policy, Step::Hold);
    let end = NodeEvent::Ended(Outcome::cancelled());
    let reactions = roster.say(FIRST, end.clone());
    assert_eq!(stops(&reactions), Some(&Reason::LockLost));
    // When the run ends, the nodes end on purpose.
    roster.stop();
    assert_eq!(
        roster.say(SECOND, end),
        [Reaction::LogEnd(Outcome::cancelled())]
    );
}

#[test]
fn optional_locks_are_held_until_no_host_is_left() {
    let policy = Policy {
        lock_is_optional: true,
        only_locks: true,
        ..STRICT
    };
    let mut roster = ready(policy, Step::Hold);
    assert_eq!(stops(&roster.say(FIRST, lost())), None);
    assert_eq!(stops(&roster.say(SECOND, lost())), None);
    let reactions = roster.say(THIRD, lost());
    assert_eq!(stops(&reactions), Some(&Reason::NobodyLeft));
}

#[test]
fn fail_fast_stops_at_the_first_command_that_fails() {
    let policy = Policy {
        fail_fast: true,
        ..STRICT
    };
    for step in [LAST, Step::Command { is_last: false }, Step::Tools] {
        let mut roster = running(policy, step);
        assert_eq!(stops(&roster.say(FIRST, NodeEvent::Finished(ok()))), None);
        let reactions = roster.say(SECOND, NodeEvent::Finished(exit(1)));
        assert_eq!(stops(&reactions), Some(&Reason::FirstFailure), "{step:?}");
        // One that was lost before its turn has failed, too.
        let mut roster = ready(policy, step);
        assert_eq!(
            stops(&roster.say(FIRST, lost())),
            Some(&Reason::FirstFailure)
        );
        let mut roster = running(STRICT, step);
        assert_eq!(
            stops(&roster.say(FIRST, NodeEvent::Finished(exit(1)))),
            None
        );
    }
    for step in [Step::Search, Step::Upload { is_last: true }] {
        let mut roster = running(policy, step);
        let reactions = roster.say(FIRST, NodeEvent::Finished(exit(2)));
        assert_eq!(stops(&reactions), None, "{step:?}");
    }
}

#[test]
fn fail_fast_does_not_mind_how_hosts_part_that_were_left_out() {
    let policy = Policy {
        fail_fast: true,
        is_loose: true,
        ..STRICT
    };
    let mut roster = ready(policy, Step::Upload { is_last: false });
    let failed = NodeEvent::Finished(ended_with(Status::Upload));
    roster.play(FIRST, Activity::Prepare, failed);
    assert!(roster.may_go_on());
    roster.enter(LAST);
    roster.run(SECOND);
    assert_eq!(stops(&roster.say(FIRST, lost())), None);
}

#[test]
fn a_sync_tool_that_fails_ends_the_others_once() {
    let mut roster = running(STRICT, Step::Tools);
    let failed = NodeEvent::Finished(exit(1));
    let reactions = roster.say(FIRST, failed.clone());
    let expected = [
        Reaction::LogEnd(exit(1)),
        Reaction::Result(exit(1)),
        Reaction::ToolFailed(ToolFailure::EndsOthers),
    ];
    assert_eq!(reactions, expected);
    let reactions = roster.say(SECOND, failed);
    let expected = Reaction::ToolFailed(ToolFailure::IsAlone);
    assert_eq!(reactions.last(), Some(&expected));
}

#[test]
fn a_loose_run_goes_on_without_a_sync_tool_that_fails() {
    let policy = Policy {
        is_loose: true,
        ..STRICT
    };
    let mut roster = running(policy, Step::Tools);
    let reactions = roster.say(FIRST, lost());
    let expected = Reaction::ToolFailed(ToolFailure::IsAlone);
    assert_eq!(reactions.last(), Some(&expected));
}

#[test]
fn a_missing_sync_tool_is_an_answer_and_no_failure() {
    let policy = Policy {
        fail_fast: true,
        ..STRICT
    };
    let mut roster = running(policy, Step::Search);
    for (id, outcome) in [(FIRST, exit(1)), (SECOND, ok()), (THIRD, exit(1))] {
        let reactions = roster.say(id, NodeEvent::Finished(outcome.clone()));
        assert_eq!(reactions, [Reaction::LogEnd(outcome)]);
    }
    roster.regroup();
    assert_eq!(roster.nodes(State::is_ready), [FIRST, SECOND, THIRD]);
    assert_eq!(roster.without_tool(), [FIRST, THIRD]);
    assert!(roster.may_go_on());
    // Another one that fails has failed, and one that is gone lacks nothing.
    let mut roster = running(STRICT, Step::Search);
    roster.say(FIRST, NodeEvent::Finished(exit(127)));
    roster.say(SECOND, NodeEvent::Finished(exit(1)));
    roster.say(SECOND, lost());
    assert_eq!(roster.without_tool(), []);
    assert!(!roster.may_go_on());
}

#[test]
fn an_upload_is_sent_when_all_await_it() {
    let place = || identity("boot:7");
    for is_last in [true, false] {
        let mut roster = ready(STRICT, Step::Upload { is_last });
        for id in [FIRST, SECOND, THIRD] {
            let made = roster.play(id, Activity::Prepare, NodeEvent::RunDirectory);
            assert_eq!(made, []);
            let awaiting = NodeEvent::Awaiting(place());
            assert_eq!(roster.play(id, Activity::Prepare, awaiting), []);
        }
        assert_eq!(roster.places().len(), 3);
        assert_eq!(roster.tally(Phase::Upload).done, 0);
        roster.send_upload();
        roster.say(FIRST, NodeEvent::Uploaded(ok()));
        roster.say(SECOND, NodeEvent::Finished(ended_with(Status::Upload)));
        assert!(roster.has_taken_upload(FIRST));
        assert!(!roster.has_taken_upload(SECOND) && !roster.has_taken_upload(THIRD));
        let (done, total, failed) = (2, 3, 1);
        let tally = Tally {
            done,
            total,
            failed,
        };
        assert_eq!(roster.tally(Phase::Upload), tally);
        assert_eq!(roster.outcome(FIRST).is_some(), is_last);
    }
}

#[test]
fn a_host_under_two_names_shares_its_lock() {
    let mut roster = Roster::new(3, STRICT);
    for id in [FIRST, SECOND, THIRD] {
        roster.play(id, Activity::Connect, NodeEvent::Connected);
    }
    let held = |name| {
        NodeEvent::Refused(LockRefusal::Held {
            identity: identity(name),
            holder: String::new(),
        })
    };
    let locked = NodeEvent::Guarded(Some(identity("boot:1")));
    roster.play(FIRST, Activity::Lock, locked);
    roster.play(SECOND, Activity::Lock, held("boot:1"));
    roster.play(THIRD, Activity::Lock, held("boot:2"));
    assert!(roster.is_locked_by_us(SECOND));
    assert!(!roster.is_locked_by_us(THIRD));
    assert_eq!(roster.refusals().len(), 2);
    // All or nothing: what we have is freed, and all is tried again.
    roster.play(FIRST, Activity::Unlock, NodeEvent::Unlocked);
    assert!(!roster.is_locked_by_us(SECOND));
    roster.forget_refusals();
    assert_eq!(roster.nodes(State::is_connected), [FIRST, SECOND, THIRD]);
}

#[test]
fn only_a_loose_run_begins_without_a_host() {
    let admission = |policy, statuses: &[Status]| {
        let mut roster = Roster::new(3, policy);
        for (id, status) in [FIRST, SECOND, THIRD].into_iter().zip(statuses) {
            let event = match status {
                Status::Ok => NodeEvent::Connected,
                status => NodeEvent::Ended(ended_with(status.clone())),
            };
            roster.play(id, Activity::Connect, event);
        }
        roster
    };
    let loose = Policy {
        is_loose: true,
        ..STRICT
    };
    let statuses = [Status::Unreachable, Status::HostKey, Status::Ok];
    let verdict = |policy| admission(policy, &statuses).judge();
    assert_eq!(verdict(STRICT).fatal, [FIRST, SECOND]);
    // A wrong key is never a reason to look away.
    assert_eq!(verdict(loose).fatal, [SECOND]);
    assert_eq!(verdict(loose).skipped, [FIRST]);

    let statuses = [Status::Unreachable, Status::Auth, Status::Ok];
    let mut roster = admission(loose, &statuses);
    assert_eq!(roster.judge().skipped, [FIRST, SECOND]);
    let result = roster.skip(FIRST).expect("it has one");
    assert_eq!(result.status, Status::Unreachable);
    assert_eq!(roster.skip(FIRST), None);
    assert_eq!(roster.skip(THIRD), None);
    roster.skip(SECOND);
    assert_eq!(roster.judge(), Verdict::default());
    // The last one is not skipped, whenever it goes.
    roster.say(THIRD, lost());
    assert_eq!(roster.judge().fatal, [THIRD]);
}

#[test]
fn a_run_that_is_being_ended_is_not_stopped_again() {
    let policy = Policy {
        fail_fast: true,
        ..CHANGE
    };
    let mut roster = running(policy, Step::Tools);
    roster.stop();
    let events = [
        NodeEvent::Finished(exit(1)),
        NodeEvent::InputFailed("gone".into()),
        NodeEvent::LockLost("gone".into()),
        lost(),
    ];
    for event in events {
        assert_eq!(stops(&roster.say(FIRST, event)), None);
    }
    // What has become of it counts all the same.
    roster.cut_off();
    assert_eq!(
        roster.outcome(FIRST).map(|end| &end.status),
        Some(&Status::LockLost)
    );
}

#[test]
fn results_that_are_out_for_good_do_not_change() {
    let mut roster = running(CHANGE, LAST);
    for id in [FIRST, SECOND, THIRD] {
        roster.say(id, NodeEvent::Finished(ok()));
    }
    roster.stop();
    assert_eq!(roster.close(), Some(Vec::new()));
    assert_eq!(roster.close(), None);
    roster.say(FIRST, NodeEvent::LockLost("gone".into()));
    roster.say(SECOND, lost());
    assert!(roster.outcomes().iter().all(|(_, outcome)| outcome.is_ok()));
}

#[test]
fn known_results_are_told_before_the_others() {
    let mut roster = running(STRICT, Step::Command { is_last: false });
    roster.say(SECOND, NodeEvent::Finished(exit(3)));
    assert_eq!(roster.tell_known(), [(SECOND, exit(3))]);
    assert_eq!(roster.tell_known(), []);
    let rest = [FIRST, THIRD].map(|id| (id, Outcome::cancelled()));
    assert_eq!(roster.close().expect("for the first time"), rest);
}

#[test]
fn a_host_whose_guard_may_still_be_there_is_unconfirmed() {
    let mut roster = running(STRICT, LAST);
    roster.say(FIRST, NodeEvent::NotLetGo);
    roster.say(FIRST, NodeEvent::Ended(Outcome::cancelled()));
    roster.say(SECOND, NodeEvent::Ended(Outcome::cancelled()));
    assert_eq!(roster.unconfirmed(), [FIRST, THIRD]);
}

#[test]
fn a_bar_counts_hosts_by_phase() {
    let counts = |roster: &Roster, phase| {
        let tally = roster.tally(phase);
        (tally.done, tally.total, tally.failed)
    };
    let mut roster = ready(STRICT, LAST);
    assert_eq!(counts(&roster, Phase::Connect), (3, 3, 0));
    assert_eq!(counts(&roster, Phase::Lock), (3, 3, 0));
    assert_eq!(counts(&roster, Phase::Exec), (0, 3, 0));
    roster.run(FIRST);
    roster.begin(SECOND, Activity::Run);
    assert_eq!(counts(&roster, Phase::Exec), (2, 3, 0));
    assert_eq!(counts(&roster, Phase::Wait), (0, 3, 0));
    roster.say(FIRST, NodeEvent::Finished(exit(1)));
    assert_eq!(counts(&roster, Phase::Wait), (1, 3, 1));
    roster.cancel_rest();
    assert_eq!(counts(&roster, Phase::Wait), (2, 3, 2));
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let status = prop_oneof![
        Just(Status::Ok),
        Just(Status::Exit(1)),
        Just(Status::Connection),
        Just(Status::HostKey),
        Just(Status::Upload),
        Just(Status::Cancelled),
    ];
    status.prop_map(|status| Outcome {
        status,
        ..Outcome::cancelled()
    })
}

fn any_event() -> impl Strategy<Value = NodeEvent> {
    prop_oneof![
        Just(NodeEvent::Connected),
        Just(NodeEvent::UnknownHostKey(key())),
        Just(NodeEvent::Guarded(Some(identity("boot:1")))),
        Just(NodeEvent::Guarded(None)),
        Just(NodeEvent::Refused(LockRefusal::NoFlock)),
        Just(NodeEvent::Unlocked),
        Just(NodeEvent::RunDirectory),
        Just(NodeEvent::Awaiting(identity("boot:1"))),
        any_outcome().prop_map(NodeEvent::Uploaded),
        Just(NodeEvent::Started),
        any_outcome().prop_map(NodeEvent::Finished),
        Just(NodeEvent::Left("/run/x".to_owned())),
        Just(NodeEvent::NotLetGo),
        Just(NodeEvent::LockLost("gone".into())),
        Just(NodeEvent::InputFailed("gone".into())),
        any_outcome().prop_map(NodeEvent::Ended),
    ]
}

fn any_policy() -> impl Strategy<Value = Policy> {
    any::<[bool; 5]>().prop_map(|flags| Policy {
        lock_is_optional: flags[0],
        loss_is_lock_loss: flags[1],
        is_loose: flags[2],
        fail_fast: flags[3],
        only_locks: flags[4],
    })
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::Admission),
        Just(Step::Search),
        any::<bool>().prop_map(|is_last| Step::Upload { is_last }),
        any::<bool>().prop_map(|is_last| Step::Command { is_last }),
        Just(Step::Tools),
        Just(Step::Hold),
    ]
}

fn any_activity() -> impl Strategy<Value = Activity> {
    prop_oneof![
        Just(Activity::Connect),
        Just(Activity::Lock),
        Just(Activity::Unlock),
        Just(Activity::Prepare),
        Just(Activity::Run),
    ]
}

/// Something that main or a node may do, whether it is its turn or not.
#[derive(Debug, Clone)]
enum Move {
    Begin(NodeId, Activity),
    /// Of the attempt that lies so far back.
    Say(NodeId, u32, NodeEvent),
    GiveUp(NodeId),
    Skip(NodeId),
    Trust(NodeId),
    Distrust(NodeId),
    Enter(Step),
    SendUpload,
    ForgetRefusals,
    Regroup,
    CancelRest,
    TellKnown,
    CutOff,
}

fn any_move() -> impl Strategy<Value = Move> {
    let node = || (0usize..3).prop_map(NodeId);
    prop_oneof![
        6 => (node(), any_activity()).prop_map(|(id, activity)| Move::Begin(id, activity)),
        12 => (node(), prop_oneof![3 => Just(0u32), 1 => 1u32..3], any_event())
            .prop_map(|(id, age, event)| Move::Say(id, age, event)),
        1 => node().prop_map(Move::GiveUp),
        1 => node().prop_map(Move::Skip),
        1 => node().prop_map(Move::Trust),
        1 => node().prop_map(Move::Distrust),
        3 => any_step().prop_map(Move::Enter),
        1 => prop_oneof![
            Just(Move::SendUpload),
            Just(Move::ForgetRefusals),
            Just(Move::Regroup),
            Just(Move::CancelRest),
            Just(Move::TellKnown),
            Just(Move::CutOff),
        ],
    ]
}

/// Results that were told, as often as each was.
#[derive(Default)]
struct Told(BTreeMap<NodeId, usize>);

impl Told {
    fn add(&mut self, id: NodeId) {
        *self.0.entry(id).or_default() += 1;
    }

    fn react(&mut self, id: NodeId, reactions: &[Reaction]) {
        for reaction in reactions {
            if matches!(reaction, Reaction::Result(_)) {
                self.add(id);
            }
        }
    }
}

/// Does what the move says, and notes the results that it tells.
fn make(roster: &mut Roster, told: &mut Told, step: Move) -> Result<(), TestCaseError> {
    match step {
        Move::Begin(id, activity) => {
            let before = roster.nodes[id.0].attempt;
            match roster.begin(id, activity) {
                Some(attempt) => prop_assert!(attempt > before),
                None => prop_assert!(roster.state(id).is_over()),
            }
        }
        Move::Say(id, age, event) => hear(roster, told, id, age, event)?,
        Move::GiveUp(id) => {
            let reactions = roster.give_up(id, ended_with(Status::Unreachable));
            told.react(id, &reactions);
        }
        Move::Skip(id) => {
            if roster.skip(id).is_some() {
                told.add(id);
            }
        }
        Move::Trust(id) => roster.trust(id),
        Move::Distrust(id) => roster.distrust(id),
        Move::Enter(step) => roster.enter(step),
        Move::SendUpload => roster.send_upload(),
        Move::ForgetRefusals => roster.forget_refusals(),
        Move::Regroup => roster.regroup(),
        Move::CancelRest => roster.cancel_rest(),
        Move::TellKnown => roster.tell_known().iter().for_each(|(id, _)| told.add(*id)),
        Move::CutOff => roster.cut_off(),
    }
    Ok(())
}

fn hear(
    roster: &mut Roster,
    told: &mut Told,
    id: NodeId,
    age: u32,
    event: NodeEvent,
) -> Result<(), TestCaseError> {
    let attempt = Attempt(roster.nodes[id.0].attempt.0.saturating_sub(age));
    let is_stale = attempt != roster.nodes[id.0].attempt && !event.is_about_connection();
    let is_over = roster.state(id).is_over();
    let before = format!("{roster:?}");
    let (policy, step) = (roster.policy, roster.step);
    let is_held = step == Step::Hold && !roster.is_stopping;
    let is_loss = matches!(&event, NodeEvent::Ended(end) if end.status == Status::Connection);
    let loses_lock = matches!(event, NodeEvent::LockLost(_))
        || (is_held && matches!(event, NodeEvent::Ended(_)))
        || (is_loss && policy.loss_is_lock_loss && step != Step::Admission);
    let reactions = roster.on(id, attempt, event);
    told.react(id, &reactions);
    if is_stale || is_over {
        prop_assert_eq!(&reactions, &[]);
        prop_assert_eq!(format!("{roster:?}"), before);
        return Ok(());
    }
    let is_lost_lock = |reaction: &Reaction| matches!(reaction, Reaction::LogLostLock { .. });
    prop_assert_eq!(reactions.iter().any(is_lost_lock), loses_lock);
    let stop = stops(&reactions);
    let stops_for_lock = loses_lock && !policy.lock_is_optional && !roster.is_stopping;
    prop_assert_eq!(stop == Some(&Reason::LockLost), stops_for_lock);
    if stop == Some(&Reason::FirstFailure) {
        prop_assert!(policy.fail_fast);
    }
    if stop.is_some() {
        prop_assert!(!roster.is_stopping);
        // Nothing is done after it.
        let is_last = matches!(reactions.last(), Some(Reaction::Stop(_)));
        prop_assert!(is_last, "{:?}", reactions);
    }
    Ok(())
}

proptest! {
    #[test]
    fn whatever_happens_every_host_has_one_result_and_no_stale_event_counts(
        policy in any_policy(),
        moves in prop::collection::vec(any_move(), 0..80),
        ending in prop::collection::vec(any_move(), 0..20),
    ) {
        let mut roster = Roster::new(3, policy);
        let mut told = Told::default();
        for step in moves {
            make(&mut roster, &mut told, step)?;
        }
        roster.stop();
        for step in ending {
            make(&mut roster, &mut told, step)?;
        }
        roster.cut_off();
        prop_assert!(!roster.any(|state| !state.is_over()));
        let rest = roster.close().expect("for the first time");
        rest.iter().for_each(|(id, _)| told.add(*id));
        prop_assert_eq!(roster.close(), None);
        let each_once = [FIRST, SECOND, THIRD].map(|id| (id, 1));
        prop_assert_eq!(told.0, BTreeMap::from(each_once));
    }

    #[test]
    fn a_command_ends_on_every_host_and_starts_on_no_more_than_the_limit_at_once(
        count in 1usize..12,
        limit in 1usize..5,
        is_last: bool,
        turns in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6), 60),
    ) {
        let policy = Policy { is_loose: true, ..STRICT };
        let mut roster = Roster::new(count, policy);
        let ids: Vec<NodeId> = (0..count).map(NodeId).collect();
        for &id in &ids {
            roster.play(id, Activity::Connect, NodeEvent::Connected);
            roster.play(id, Activity::Lock, NodeEvent::Guarded(None));
        }
        roster.enter(Step::Command { is_last });
        let mut schedule = Schedule::new(limit, ids.clone());
        let mut told = Told::default();
        let mut turns = turns.into_iter();
        loop {
            while let Some(id) = schedule.admit() {
                prop_assert!(roster.begin(id, Activity::Run).is_some());
                schedule.note(id, roster.stage(id));
            }
            let starting = ids.iter().filter(|id| roster.stage(**id) == Stage::Starting);
            prop_assert!(starting.count() <= limit);
            if schedule.is_over() {
                break;
            }
            // Any host may be lost, also one that waits for its turn. When the turns are
            // over, all come to their ends.
            let busy = roster.nodes(State::is_busy);
            let (id, event) = match turns.next() {
                Some((index, 0)) => (ids[index.index(count)], lost()),
                Some((index, kind)) => (busy[index.index(busy.len())], match kind {
                    1 => NodeEvent::Finished(ok()),
                    2 => NodeEvent::Finished(exit(1)),
                    _ => NodeEvent::Started,
                }),
                None => (busy[0], NodeEvent::Finished(ok())),
            };
            let reactions = roster.say(id, event);
            prop_assert_eq!(stops(&reactions), None);
            told.react(id, &reactions);
            schedule.note(id, roster.stage(id));
        }
        prop_assert!(!roster.any(State::is_busy));
        if is_last {
            prop_assert!(ids.iter().all(|id| roster.outcome(*id).is_some()));
        } else {
            roster.regroup();
            let unsettled = roster.nodes(|state| !state.is_ready() && state.outcome().is_none());
            prop_assert_eq!(unsettled, []);
        }
        let rest = roster.close().expect("for the first time");
        rest.iter().for_each(|(id, _)| told.add(*id));
        prop_assert!(told.0.len() == count && told.0.values().all(|times| *times == 1));
    }
}
