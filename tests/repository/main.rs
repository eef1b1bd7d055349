//! Rules for the repository itself: which module and which file may use which, how
//! long a function may be, what shellcheck says about the shell scripts, what the
//! licences of the dependencies allow, and how the program is built and installed.

mod circles;
mod functions;
mod installing;
mod layering;
mod licences;
mod scripts;
mod sources;
