//! Pairs of pages that look like captured ones, out of a number: for the demo, for benches, for tests of
//! size.
//!
//! A page has a head with scripts, a navigation, sections of prose, lists of links and tables, a footer, and
//! words beyond ASCII, like those of an agency or a newspaper; its later version has the edits that such
//! pages get. In a quarter of the pairs nothing visible changed, as in captured ones. Nothing hostile is made
//! here.
//!
//! Invariant: the same seed and size give the same bytes, on every machine; and the two versions differ.

/// Splitmix64 (Steele, Lea and Flood 2014; constants of Vigna's public-domain version): small, fast, and the
/// same everywhere. Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// A sequence that follows from the seed alone.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from zero to just below `bound`; zero where `bound` is.
    pub fn below(&mut self, bound: usize) -> usize {
        let wide = u128::from(self.next_u64()) * (bound as u128);
        usize::try_from(wide >> 64).unwrap_or(0)
    }

    /// One of these, which must not be none.
    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// That many bytes of noise.
    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next_u64().to_le_bytes());
        words.take(count.div_ceil(8)).flatten().take(count).collect()
    }
}

/// Two versions of one page, the older of about this size (never under 3 kB).
pub fn pair(seed: u64, size_bytes: usize) -> (Vec<u8>, Vec<u8>) {
    let mut rng = Rng::new(seed);
    let mut page = Page::make(&mut rng, size_bytes);
    let from = page.render();
    page.edit(&mut rng);
    (from.into_bytes(), page.render().into_bytes())
}

#[rustfmt::skip]
const WORDS: [&str; 96] = [
    "the", "of", "and", "to", "in", "a", "for", "is", "on", "that", "by", "with", "are", "from", "this",
    "as", "water", "air", "quality", "climate", "energy", "emissions", "standards", "public", "health",
    "program", "report", "data", "state", "federal", "agency", "office", "region", "rule", "permit",
    "review", "notice", "comment", "guidance", "research", "science", "impacts", "change", "adaptation",
    "coastal", "river", "basin", "wildlife", "habitat", "species", "forest", "fire", "season", "storm",
    "flood", "drought", "temperature", "average", "record", "annual", "increase", "decline", "assessment",
    "monitoring", "measure", "estimate", "community", "tribal", "local", "partners", "grants", "funding",
    "budget", "million", "percent", "year", "transportation", "vehicles", "fuel", "power", "plants",
    "methane", "carbon", "dioxide", "ozone", "mercury", "cleanup", "sites", "waste", "recycling", "lead",
    "drinking", "safety", "workers", "under", "new",
];
#[rustfmt::skip]
const ODDITIES: [&str; 16] = [
    "São Paulo", "Québec", "Doña Ana County", "2 °C", "§ 7412(d)", "CO₂", "naïve", "“best available”",
    "Hawaiʻi", "Español", "µg/m³", "—", "co-operation", "O’Neill", "第三章", "≥ 40",
];
#[rustfmt::skip]
const TOPICS: [&str; 12] = [
    "Air Quality", "Climate Change", "Drinking Water", "Grants", "Laws and Regulations", "Newsroom",
    "Research", "Superfund", "Data and Maps", "About the Office", "Careers", "Contact Us",
];

/// A link with its target.
struct Link(String, String);

enum Block {
    Prose(Vec<String>),
    Links(Vec<Link>),
    Table(Vec<[usize; 4]>),
}

struct Section {
    heading: String,
    blocks: Vec<Block>,
}

struct Page {
    title: String,
    /// Day of a year of 360, which all months agree with.
    day: usize,
    /// What a script carries that is new in each capture.
    nonce: u64,
    /// The version of the style sheet.
    style: usize,
    navigation: Vec<Link>,
    sections: Vec<Section>,
}

impl Page {
    fn make(rng: &mut Rng, size_bytes: usize) -> Self {
        let mut page = Self {
            title: format!("{}: {}", rng.pick(&TOPICS), heading(rng)),
            day: rng.below(300),
            nonce: rng.next_u64(),
            style: 100 + rng.below(100),
            navigation: (0..8 + rng.below(8)).map(|_| link(rng)).collect(),
            sections: Vec::new(),
        };
        let mut size = page.render().len();
        while size < size_bytes {
            let section = section(rng);
            let mut html = String::new();
            section.render(&mut html);
            size += html.len();
            page.sections.push(section);
        }
        page
    }

    /// Makes it the next capture: a new nonce, and in three of four pairs also what people see.
    fn edit(&mut self, rng: &mut Rng) {
        self.nonce = rng.next_u64();
        if rng.below(4) == 0 {
            self.style += rng.below(2);
            return;
        }
        for _ in 0..1 + rng.below(4) {
            let section = rng.below(self.sections.len());
            match (rng.below(6), self.sections.get_mut(section)) {
                (0, Some(section)) => section.edit_sentence(rng),
                (1, Some(section)) => section.blocks.push(prose(rng)),
                (2, Some(section)) => section.heading = heading(rng),
                (3, _) if self.navigation.len() > 1 => {
                    self.navigation.remove(rng.below(self.navigation.len()));
                }
                (4, _) => self.navigation.push(link(rng)),
                _ => self.day += 1 + rng.below(5),
            }
        }
    }

    fn render(&self) -> String {
        let (title, nonce) = (&self.title, self.nonce);
        let date = format!("2018-{:02}-{:02}", self.day / 30 % 12 + 1, self.day % 30 + 1);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title} | Example Agency</title>\n\
             <meta name=\"description\" content=\"{title}\">\n<link rel=\"stylesheet\" href=\"/assets/site.css?v={}\">\n\
             <script>window.page = {{\"nonce\": \"{nonce:016x}\", \"section\": \"{title}\"}};</script>\n</head>\n\
             <body class=\"page\">\n<header><a href=\"/\"><img src=\"/assets/seal.png\" alt=\"Seal of the Agency\"></a>\n<nav>\n",
            self.style
        );
        list(&self.navigation, &mut html);
        html.push_str(&format!(
            "</nav>\n</header>\n<main>\n<h1>{title}</h1>\n<p class=\"date\">Published {date}</p>\n"
        ));
        for section in &self.sections {
            section.render(&mut html);
        }
        html.push_str(&format!(
            "</main>\n<footer>\n<p>Last updated on <time datetime=\"{date}\">{date}</time></p>\n\
             <p><a href=\"/privacy\">Privacy</a> <a href=\"/accessibility\">Accessibility</a> <a href=\"/es\" lang=\"es\">Español</a></p>\n\
             </footer>\n<script async src=\"/assets/metrics.js?t={nonce:x}\"></script>\n</body>\n</html>\n"
        ));
        html
    }
}

impl Section {
    fn edit_sentence(&mut self, rng: &mut Rng) {
        for block in &mut self.blocks {
            if let Block::Prose(sentences) = block {
                let at = rng.below(sentences.len());
                sentences[at] = sentence(rng);
                return;
            }
        }
    }

    fn render(&self, html: &mut String) {
        html.push_str(&format!("<section>\n<h2>{}</h2>\n", self.heading));
        for block in &self.blocks {
            match block {
                Block::Prose(sentences) => html.extend(["<p>", &sentences.join(" "), "</p>\n"]),
                Block::Links(links) => list(links, html),
                Block::Table(rows) => {
                    html.push_str(
                        "<table>\n<tr><th>Year</th><th>Sites</th><th>Tons</th><th>Cost</th></tr>\n",
                    );
                    for [year, sites, tons, cost] in rows {
                        html.push_str(&format!(
                            "<tr><td>{year}</td><td>{sites}</td><td class=\"n\">{tons}</td><td>${cost}</td></tr>\n"
                        ));
                    }
                    html.push_str("</table>\n");
                }
            }
        }
        html.push_str("</section>\n");
    }
}

fn section(rng: &mut Rng) -> Section {
    let block = |rng: &mut Rng| match rng.below(8) {
        0 => Block::Links((0..3 + rng.below(8)).map(|_| link(rng)).collect()),
        1 => Block::Table((0..2 + rng.below(10)).map(|n| row(2000 + n, rng)).collect()),
        _ => prose(rng),
    };
    let heading = heading(rng);
    let mut blocks = vec![prose(rng)];
    for _ in 0..rng.below(3) {
        blocks.push(block(rng));
    }
    Section { heading, blocks }
}

fn list(links: &[Link], html: &mut String) {
    html.push_str("<ul>\n");
    for Link(text, href) in links {
        html.push_str(&format!("<li><a href=\"{href}\">{text}</a></li>\n"));
    }
    html.push_str("</ul>\n");
}

fn row(year: usize, rng: &mut Rng) -> [usize; 4] {
    [year, rng.below(500), rng.below(100_000), rng.below(10_000_000)]
}

fn link(rng: &mut Rng) -> Link {
    let (text, number) = (heading(rng), rng.below(10_000));
    Link(text, format!("/{}/{number}", rng.pick(&WORDS)))
}

fn heading(rng: &mut Rng) -> String {
    let words: Vec<&str> = (0..2 + rng.below(3)).map(|_| rng.pick(&WORDS)).collect();
    capitalised(&words.join(" "))
}

fn prose(rng: &mut Rng) -> Block {
    Block::Prose((0..2 + rng.below(5)).map(|_| sentence(rng)).collect())
}

fn sentence(rng: &mut Rng) -> String {
    let word = |rng: &mut Rng| if rng.below(40) == 0 { rng.pick(&ODDITIES) } else { rng.pick(&WORDS) };
    let words: Vec<&str> = (0..8 + rng.below(14)).map(|_| word(rng)).collect();
    capitalised(&words.join(" ")) + "."
}

fn capitalised(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_pair_and_another_seed_another() {
        assert_eq!(pair(7, 20_000), pair(7, 20_000));
        assert_ne!(pair(7, 20_000).0, pair(8, 20_000).0);
        // The reference sequence of seed 1234567.
        let mut rng = Rng::new(1_234_567);
        assert_eq!([rng.next_u64(), rng.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn pages_have_the_size_asked_for_and_their_versions_differ_by_little() {
        for seed in 0..200 {
            let size = 5_000 + (seed as usize) * 1_475;
            let (from, to) = pair(seed, size);
            assert!((size..size + 6_000).contains(&from.len()), "seed {seed}: {} for {size}", from.len());
            assert_ne!(from, to, "seed {seed}");
            let (from, to) = (String::from_utf8(from).unwrap(), String::from_utf8(to).unwrap());
            assert!(!from.is_ascii() && from.ends_with("</html>\n"), "seed {seed}");
            let known: std::collections::HashSet<&str> = from.lines().collect();
            let new = to.lines().filter(|line| !known.contains(line)).count();
            assert!((1..=10).contains(&new), "seed {seed}: {new} lines are new");
        }
    }

    #[test]
    fn in_about_a_quarter_of_the_pairs_nothing_visible_changed() {
        let visible = |page: Vec<u8>| {
            let page = String::from_utf8(page).unwrap();
            page.lines()
                .filter(|line| !line.contains("script") && !line.contains("link rel"))
                .collect::<String>()
        };
        let same = (0..400).filter(|seed| {
            let (from, to) = pair(*seed, 5_000);
            visible(from) == visible(to)
        });
        let same = same.count();
        assert!((60..140).contains(&same), "{same} of 400");
    }
}
