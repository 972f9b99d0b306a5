//! What Redis holds, by purpose: a part of the overview.

use maud::{Markup, html};

use super::chart;
use super::page;
use crate::queue::{Purpose, Status};

/// What Redis holds, and when it is full.
pub(super) fn panel(status: &Status) -> Markup {
    let memory = &status.memory;
    let max = status.server.as_ref().map_or(0, |server| server.maxmemory_bytes);
    let mut purposes: Vec<(Purpose, u64)> = Purpose::ALL
        .iter()
        .map(|purpose| (*purpose, memory.of(*purpose)))
        .filter(|(_, bytes)| *bytes > 0)
        .collect();
    purposes.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let of = if max > 0 { max } else { memory.total().max(1) };
    let parts: Vec<(&str, f64)> =
        purposes.iter().map(|(purpose, bytes)| (purpose.as_str(), *bytes as f64 / of as f64)).collect();
    html! {
        section.panel {
            h2 { "Redis memory" }
            @match &status.server {
                None => p.warn { "The server does not tell." },
                Some(server) if max > 0 => p {
                    strong { (page::bytes(server.used_bytes)) } " of " (page::bytes(max))
                    (format!(" ({:.0} %)", server.memory_filled() * 100.0))
                    @match memory.full_in_ms {
                        Some(ms) => { ", " strong.warn { "full in " (page::duration_ms(ms)) } }
                        None => ", not growing",
                    }
                },
                Some(server) => p { strong { (page::bytes(server.used_bytes)) } " used, " span.warn { "no maxmemory" } },
            }
            (chart::stacked(&parts, "Memory by purpose"))
            ul.legend {
                @for (at, (purpose, bytes)) in purposes.iter().enumerate() {
                    li { span class={ "swatch part" (at % chart::COLOURS) } {} (purpose.as_str()) " " (page::bytes(*bytes)) }
                }
            }
        }
    }
}
