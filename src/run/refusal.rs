//! The words for a lock that a host was refused.

use crate::error::Tree;
use crate::event::{LockRefusal, Outcome, Status};

/// What failed, and why.
pub(super) fn describe(refusal: &LockRefusal) -> (&'static str, Option<Tree>) {
    let reason = match refusal {
        LockRefusal::Held { holder, .. } => {
            let holder = (!holder.is_empty()).then(|| format!("held by {holder}").into());
            return (
                "can't acquire lock, lock already obtained by another process",
                holder,
            );
        }
        LockRefusal::NoFlock => {
            "there is no flock(1) on the host: install util-linux, or go without locks (-y)".into()
        }
        LockRefusal::NoTarget(reason) => Tree::new(reason),
        LockRefusal::Forbidden(reason) => {
            Tree::new(reason).because("try it as root (-x), or lock something else (--lock-file)")
        }
    };
    ("can't acquire lock", Some(reason))
}

/// How a host ends that was refused its lock.
pub(super) fn outcome(refusal: &LockRefusal) -> Outcome {
    let (what, reason) = describe(refusal);
    let tree = reason.into_iter().fold(Tree::new(what), Tree::because);
    Outcome::failed(Status::Lock, tree)
}
