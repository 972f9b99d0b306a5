//! What holds for a whole queue, changed: pauses, hosts that rest, settings. Nothing here prints.

use std::time::Duration;

use crate::queue::{
    Error, HostName, HostResumed, OperatorHandle, PauseName, Paused, RestByHand, Resumed, Setting,
    SettingChange, Status,
};

/// Pauses the queue for a time, or until the pause is lifted; returns what is in it now, or why not.
///
/// # Errors
/// Those of Redis.
pub async fn pause(
    queue: &OperatorHandle,
    name: &PauseName,
    time: Option<Duration>,
    by: &str,
    reason: &str,
) -> Result<Result<Status, &'static str>, Error> {
    Ok(match queue.pause(name, time, by, reason).await? {
        true => Ok(queue.status().await?),
        false => Err("there are 20 pauses in force already: lift one first (status lists them)"),
    })
}

/// Makes a host rest; otherwise says why not.
///
/// # Errors
/// Those of Redis.
pub async fn rest_host(
    queue: &OperatorHandle,
    host: &HostName,
    time: Duration,
    by: &str,
    reason: &str,
) -> Result<Result<(), &'static str>, Error> {
    Ok(match queue.rest_host(host, time, by, reason).await? {
        true => Ok(()),
        false => Err("100 hosts rest by hand already: end a rest first (status lists them)"),
    })
}

/// What became of a pause that was to be lifted, or of a host that was to be visited again.
#[derive(Debug)]
pub enum ResumeOutcome {
    /// Of a pause; and the pauses that are still in force.
    Pause(Resumed, Vec<Paused>),
    /// The host rests no more; the rest, where a person had ordered it.
    Host(HostName, Option<RestByHand>),
    /// The host does not rest.
    NotResting(HostName),
    /// It is neither the name of a pause nor a host, in a sentence.
    Unreadable(String),
}

/// Lifts the pause of this name, where one is in force; otherwise ends the rest of the host. So a name that is both
/// needs two calls, and each says what it did. Without a name it is the only pause in force.
///
/// # Errors
/// Those of Redis.
pub async fn resume(queue: &OperatorHandle, what: Option<&str>, by: &str) -> Result<ResumeOutcome, Error> {
    let Some(what) = what else { return lift(queue, None, by).await };
    let name = PauseName::parse(what).ok();
    let is_pause = match &name {
        Some(name) => queue.drained_by(name).await?.0,
        None => false,
    };
    let host = match (is_pause, HostName::parse(what)) {
        (false, Ok(host)) => host,
        (true, _) => return lift(queue, name.as_ref(), by).await,
        (false, Err(_)) if name.is_some() => return lift(queue, name.as_ref(), by).await,
        (false, Err(why)) => return Ok(ResumeOutcome::Unreadable(why)),
    };
    match queue.resume_host(&host, by).await? {
        HostResumed::Resumed(by_hand) => Ok(ResumeOutcome::Host(host, by_hand)),
        // What is neither is most likely a pause's name, as before hosts could rest.
        HostResumed::NotResting if name.is_some() => lift(queue, name.as_ref(), by).await,
        HostResumed::NotResting => Ok(ResumeOutcome::NotResting(host)),
    }
}

async fn lift(queue: &OperatorHandle, name: Option<&PauseName>, by: &str) -> Result<ResumeOutcome, Error> {
    let resumed = queue.resume(name, by).await?;
    let others = match &resumed {
        Resumed::Resumed(_) => queue.status().await?.pauses,
        Resumed::NotPaused => Vec::new(),
        Resumed::Several(pauses) | Resumed::Unknown(pauses) => pauses.clone(),
    };
    Ok(ResumeOutcome::Pause(resumed, others))
}

/// Stores settings, all as configured where none is given; returns those that changed.
///
/// # Errors
/// Those of Redis.
pub async fn set(
    queue: &OperatorHandle,
    values: &[(Setting, String)],
    by: &str,
) -> Result<Vec<SettingChange>, Error> {
    let mut changes = match values {
        [] => queue.set_from_config(by).await?,
        some => queue.set(by, some).await?,
    };
    changes.retain(|change| change.before.as_ref() != Some(&change.value));
    Ok(changes)
}
