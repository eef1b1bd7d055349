//! Who holds the locks of a run.

/// The holder of the locks of this run, as other runs show it: `ops@deploy1 since
/// 2026-01-31 12:00:00 +00:00`.
pub(super) fn holder() -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::current());
    let user = match user {
        Ok(Some(user)) => user.name,
        _ => "somebody".to_owned(),
    };
    let host = rustix::system::uname();
    let host = host.nodename().to_string_lossy().into_owned();
    let time = jiff::ZonedDateTime::now().strftime("%F %T %:z");
    format!("{user}@{host} since {time}")
}
