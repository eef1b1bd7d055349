//! Rules for the repository itself: which module and which file may use which, how
//! long a function may be, what shellcheck says about the shell scripts, and what the
//! licences of the dependencies allow.

mod circles;
mod functions;
mod layering;
mod licences;
mod scripts;
mod sources;
