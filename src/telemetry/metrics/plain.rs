//! The metrics in the text format of Prometheus 0.0.4, for readers that do not know OpenMetrics, `promtool check
//! metrics` among them.
//!
//! It rewrites what was rendered: the samples are the same in both, only the comments name counters and infos otherwise.

use super::catalogue::{CATALOGUE, MetricType, PREFIX};

/// Rendered OpenMetrics text in the older format.
pub(crate) fn from_openmetrics(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF") {
        plain.push_str(&comment(line).unwrap_or_else(|| line.to_owned()));
        plain.push('\n');
    }
    plain
}

/// `# HELP` or `# TYPE` of a family whose samples have another name than itself.
fn comment(line: &str) -> Option<String> {
    let mut words = line.splitn(4, ' ');
    let (hash, what, family, rest) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let name = family.strip_prefix(PREFIX)?.strip_prefix('_')?;
    let entry = CATALOGUE.iter().find(|entry| hash == "#" && entry.name == name)?;
    let (family, kind) = match entry.kind {
        MetricType::Counter => (entry.sample(), "counter"),
        MetricType::Info => (entry.sample(), "gauge"),
        MetricType::Gauge | MetricType::Histogram => return None,
    };
    Some(format!("# {what} {family} {}", if what == "TYPE" { kind } else { rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_named_as_their_samples() {
        let text = "# HELP wm_analyzer_build The version.\n# TYPE wm_analyzer_build info\nwm_analyzer_build_info{} 1\n\
                    # HELP wm_analyzer_jobs Jobs.\n# TYPE wm_analyzer_jobs counter\nwm_analyzer_jobs_total{} 2\n\
                    # TYPE wm_analyzer_queue_ready gauge\nwm_analyzer_queue_ready{} 3\n# EOF\n";
        let want = "# HELP wm_analyzer_build_info The version.\n# TYPE wm_analyzer_build_info gauge\n\
                    wm_analyzer_build_info{} 1\n# HELP wm_analyzer_jobs_total Jobs.\n\
                    # TYPE wm_analyzer_jobs_total counter\nwm_analyzer_jobs_total{} 2\n\
                    # TYPE wm_analyzer_queue_ready gauge\nwm_analyzer_queue_ready{} 3\n";
        assert_eq!(from_openmetrics(text), want);
    }
}
