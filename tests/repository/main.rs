//! Rules for the repository itself: which module may use which, and what the
//! licences of the dependencies allow.

mod layering;
mod licences;
