//! The words that select jobs, the same for every command: `state:dead kind:timeout host:web.example.gov since:2h`.
//!
//! Several values of one word are alternatives (`kind:timeout,dns`); different words must all hold. A word that is
//! none of these is a job's id.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::render::sanitize;
use crate::job::failure::FailureKind;
use crate::job::{JobId, Priority};
use crate::queue::{JobState, ReplayCount, Selection};

/// The words, as the help of each command shows them.
pub const GRAMMAR: &str = "\
Select jobs by their ids, or by words that must all hold; several values of a word are separated by commas:
  state:ready|scheduled|exclusive|in_flight|dead|trash, or waiting, or live for all but the last two
  kind:timeout,dns        kind of failure     host:web.example.gov    host
  build:wm-analyzer@0.1   build that ran it   page:UUID               page
  since:2h until:10m      time, or how long ago, of its death, claim or admission
  priority:low|normal|high                    replayed:no|yes|3       never, or at least so often
  id:ID,ID                ids                 text:'404 not found'    words in its failure, id or addresses";

/// A word that selects, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, strum::EnumString, strum::IntoStaticStr, strum::VariantArray)]
#[strum(serialize_all = "snake_case")]
enum Word {
    State,
    Kind,
    Host,
    Build,
    Since,
    Until,
    Priority,
    Replayed,
    Id,
    Page,
    Text,
}

/// Reads the words; times count back from `now_ms`, by the clock of Redis.
///
/// # Errors
/// A sentence with the word and what may stand there.
pub fn parse(words: &[String], now_ms: u64) -> Result<Selection, String> {
    let mut selection = Selection::default();
    for word in words {
        match word.split_once(':').and_then(|(name, value)| Some((name.parse::<Word>().ok()?, value))) {
            Some((name, value)) => add(&mut selection, name, value, now_ms)?,
            None => selection.ids.push(id(word)?),
        }
    }
    Ok(selection)
}

fn add(selection: &mut Selection, word: Word, value: &str, now_ms: u64) -> Result<(), String> {
    if value.split(',').all(|value| value.trim().is_empty()) {
        return Err(format!("{}: needs a value", <&str>::from(word)));
    }
    let values = value.split(',').filter(|value| !value.is_empty());
    match word {
        Word::State => {
            for value in values {
                selection.states.extend(states(value)?);
            }
        }
        Word::Kind => {
            for value in values {
                selection.kinds.push(kind(value)?);
            }
        }
        Word::Host => selection.hosts.extend(values.map(str::to_lowercase)),
        Word::Build => selection.builds.extend(values.map(str::to_owned)),
        Word::Since => selection.since_ms = Some(moment(value, now_ms)?),
        Word::Until => selection.until_ms = Some(moment(value, now_ms)?),
        Word::Priority => {
            for value in values {
                selection.priorities.push(match value {
                    "low" => Priority::Low,
                    "normal" => Priority::Normal,
                    "high" => Priority::High,
                    other => return Err(unknown(other, "a priority", &["low", "normal", "high"])),
                });
            }
        }
        Word::Replayed => {
            selection.replayed = Some(match value {
                "no" | "0" => ReplayCount::Never,
                "yes" => ReplayCount::AtLeast(1),
                least => {
                    let least = least.trim_start_matches(">=").parse();
                    ReplayCount::AtLeast(least.map_err(|_| unknown(value, "a count", &["no", "yes", "3"]))?)
                }
            });
        }
        Word::Id => {
            for value in values {
                selection.ids.push(id(value)?);
            }
        }
        Word::Page => {
            for value in values {
                let page = value.parse().map_err(|e| format!("page:{}: {e}", sanitize(value, 80)))?;
                selection.pages.push(page);
            }
        }
        Word::Text => selection.texts.push(value.to_owned()),
    }
    Ok(())
}

fn states(text: &str) -> Result<Vec<JobState>, String> {
    match text {
        "waiting" => Ok(JobState::WAITING.to_vec()),
        "live" => Ok(LIVE.to_vec()),
        "running" => Ok(vec![JobState::InFlight]),
        state => match state.parse() {
            Ok(state) => Ok(vec![state]),
            Err(_) => {
                let names: Vec<&str> = JobState::ALL.iter().map(|state| state.as_str()).collect();
                Err(unknown(state, "a state", &[&names[..], &["waiting", "live"]].concat()))
            }
        },
    }
}

/// The states of jobs that have not ended.
pub(super) const LIVE: [JobState; 4] =
    [JobState::InFlight, JobState::Ready, JobState::Exclusive, JobState::Scheduled];

fn kind(label: &str) -> Result<FailureKind, String> {
    let near =
        || FailureKind::ALL.iter().copied().min_by_key(|kind| strsim::levenshtein(kind.as_str(), label));
    FailureKind::parse(label).ok_or_else(|| {
        let near = near().map_or(String::new(), |kind| format!(": did you mean {kind}?"));
        format!("{:?} is not a kind of failure{near}", sanitize(label, 40))
    })
}

fn id(text: &str) -> Result<JobId, String> {
    JobId::parse(text).map_err(|e| {
        let near = text.split_once(':').and_then(|(name, _)| near_word(name));
        let near = near.map_or(String::new(), |word| format!("; did you mean {word}:?"));
        format!("{:?}: {e}{near}", sanitize(text, 140))
    })
}

/// The word that was probably meant by `name`.
pub(super) fn near_word(name: &str) -> Option<&'static str> {
    let words = <Word as strum::VariantArray>::VARIANTS.iter().map(|word| <&'static str>::from(*word));
    words
        .map(|word| (strsim::levenshtein(word, name), word))
        .filter(|(far, _)| *far <= 2)
        .min()
        .map(|(_, w)| w)
}

/// `2h`, so long before `now_ms`; or a day, or a timestamp.
fn moment(text: &str, now_ms: u64) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now_ms.saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)));
    }
    let day = format!("{text}T00:00:00Z");
    let read = |text: &str| OffsetDateTime::parse(text, &Rfc3339).ok();
    let at = read(text).or_else(|| read(&day));
    let ms = at.and_then(|at| u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok());
    ms.ok_or_else(|| {
        format!("{:?} is no time: write 2h, 2026-10-01 or 2026-10-01T12:00:00Z", sanitize(text, 60))
    })
}

/// How long ago that was, in a sentence.
pub(super) fn ago(now_ms: u64, ms: u64) -> String {
    format!("{} ago", super::render::format_duration(Duration::from_millis(now_ms.saturating_sub(ms))))
}

fn unknown(value: &str, what: &str, names: &[&str]) -> String {
    format!("{:?} is not {what}: write {}", sanitize(value, 60), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    fn read(words: &[&str]) -> Result<Selection, String> {
        parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), NOW_MS)
    }

    #[test]
    fn words_are_read_as_people_write_them() {
        let read = read(&[
            "state:dead,waiting",
            "kind:timeout,dns",
            "host:WEB.a.gov",
            "build:wm-analyzer@0.1",
            "since:2h",
            "until:2026-09-01",
            "priority:low",
            "replayed:>=2",
            "text:404",
            "id:a,b",
            "bad-deploy-17",
        ])
        .unwrap();
        assert_eq!(read.states, [JobState::Dead, JobState::Ready, JobState::Scheduled, JobState::Exclusive]);
        assert_eq!(read.kinds, [FailureKind::Timeout, FailureKind::Dns]);
        assert_eq!((read.hosts, read.texts), (vec!["web.a.gov".to_owned()], vec!["404".to_owned()]));
        assert_eq!(read.since_ms, Some(NOW_MS - 7_200_000));
        assert_eq!(read.until_ms, Some(1_788_220_800_000));
        assert_eq!((read.priorities, read.replayed), (vec![Priority::Low], Some(ReplayCount::AtLeast(2))));
        assert_eq!(read.ids.iter().map(JobId::as_str).collect::<Vec<_>>(), ["a", "b", "bad-deploy-17"]);
    }

    #[test]
    fn an_id_with_a_colon_is_an_id() {
        assert_eq!(read(&["import:42"]).unwrap().ids[0].as_str(), "import:42");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_may_stand_there() {
        for (word, said) in [
            ("kind:timeuot", "did you mean timeout?"),
            ("state:asleep", "waiting, live"),
            ("since:yesterday", "write 2h"),
            ("priority:urgent", "low, normal, high"),
            ("replayed:often", "no, yes, 3"),
            ("host:", "host: needs a value"),
            ("kind:,", "kind: needs a value"),
            ("hsot:a/b", "did you mean host:?"),
        ] {
            let error = read(&[word]).unwrap_err();
            assert!(error.contains(said), "{word}: {error}");
        }
    }
}
