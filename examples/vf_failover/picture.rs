//! What there is to see while it runs, as lines of text: rates on both paths, losses, what happens. Whoever shows it knows the
//! size; nothing here writes.

use std::collections::VecDeque;
use std::time::Duration;

use crate::flow::Counts;
use crate::told::{By, News};

/// Samples of a second: rates are means of one.
pub(crate) const SAMPLES_A_SECOND: usize = 10;
/// Samples that are kept: as many as a wide terminal has room for.
const SAMPLES: usize = 400;
/// Events that are kept, for a high one.
const EVENTS: usize = 200;

/// Room for a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

impl Default for Size {
    fn default() -> Self {
        Self { columns: 80, rows: 24 }
    }
}

/// A line in pieces.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Line(pub(crate) Vec<(Style, String)>);

/// What a piece of a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    Plain,
    Title,
    Aside,
    Synthetic,
    Vf,
    Good,
    Bad,
}

/// What has gone by each path, both ways.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Traffic {
    pub(crate) synthetic: Gone,
    pub(crate) vf: Gone,
}

/// By one of them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gone {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// One of the two.
type PathOf = fn(&Traffic) -> Gone;

/// How things are at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Since the beginning.
    pub(crate) elapsed: Duration,
    /// What is going on.
    pub(crate) doing: &'static str,
    pub(crate) cycles: u32,
    pub(crate) traffic: Traffic,
    pub(crate) tcp_bytes: u64,
    /// Of both numbered flows.
    pub(crate) flows: Counts,
    /// Switches to the VF, and back.
    pub(crate) switches: [usize; 2],
    /// Frames that the driver reported lost.
    pub(crate) reported: u64,
}

/// How things are, and how they came to be.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    /// What was asked for.
    title: String,
    cycles: Option<u32>,
    limit: Option<Duration>,
    now: Now,
    /// When, and what had gone until then; the oldest first.
    samples: VecDeque<(Duration, Traffic)>,
    events: VecDeque<News>,
}

impl Picture {
    /// Of a run of so many cycles, or of so much time.
    pub(crate) fn new(title: String, cycles: Option<u32>, limit: Option<Duration>) -> Self {
        let start = VecDeque::from([(Duration::ZERO, Traffic::default())]);
        Self { title, cycles, limit, now: Now::default(), samples: start, events: VecDeque::new() }
    }

    /// Takes in how things are now, and what has happened since.
    pub(crate) fn update(&mut self, now: Now, news: impl IntoIterator<Item = News>) {
        self.now = now;
        keep(&mut self.samples, SAMPLES + 1, [(now.elapsed, now.traffic)]);
        keep(&mut self.events, EVENTS, news);
    }

    /// How much of it is done, from 0 to 1.
    fn progress(&self) -> Option<f64> {
        let of_time = self.limit.map(|limit| self.now.elapsed.as_secs_f64() / limit.as_secs_f64());
        let of_cycles = self.cycles.map(|cycles| f64::from(self.now.cycles) / f64::from(cycles.max(1)));
        // Whichever comes first ends it.
        of_time.into_iter().chain(of_cycles).reduce(f64::max).map(|done| done.min(1.0))
    }

    /// Packets and bits a second, of the last second.
    fn rate(&self, path: PathOf) -> (f64, f64) {
        let last = self.samples.len() - 1;
        let before = last.saturating_sub(SAMPLES_A_SECOND);
        let ((since, old), (until, new)) = (self.samples[before], self.samples[last]);
        let (old, new, seconds) = (path(&old), path(&new), (until - since).as_secs_f64().max(1e-9));
        let rate = |new: u64, old: u64| new.saturating_sub(old) as f64 / seconds;
        (rate(new.packets, old.packets), 8.0 * rate(new.bytes, old.bytes))
    }

    /// Packets a second, sample by sample: the last `count` of them.
    fn course(&self, path: PathOf, count: usize) -> Vec<f64> {
        let first = (self.samples.len() - 1).saturating_sub(count);
        let pairs = self.samples.iter().skip(first).zip(self.samples.iter().skip(first + 1));
        let rate = |((since, old), (until, new)): (&(Duration, Traffic), &(Duration, Traffic))| {
            let packets = path(new).packets.saturating_sub(path(old).packets);
            packets as f64 / (*until - *since).as_secs_f64().max(1e-9)
        };
        pairs.map(rate).collect()
    }

    /// The picture in lines that are not longer than there is room for, nor more. A terminal's last column stays free: not
    /// all agree on where the cursor is behind it.
    pub(crate) fn lines(&self, size: Size) -> Vec<Line> {
        let columns = size.columns.saturating_sub(1);
        let wide = columns >= WIDE;
        let mut lines = vec![self.head(columns), self.bar(columns)];
        let gap = if size.rows >= 18 { vec![Line::default()] } else { Vec::new() };
        lines.extend(gap.clone());
        let height = if wide { (size.rows / 10).clamp(1, 4) } else { 1 };
        lines.extend(self.paths(columns, height));
        lines.extend(gap.clone());
        lines.extend(if wide { self.counts() } else { self.few_counts() });
        lines.extend(gap);
        let room = size.rows.saturating_sub(lines.len());
        for news in self.events.iter().skip(self.events.len().saturating_sub(room)) {
            let style = if news.by == By::Host { Style::Aside } else { Style::Plain };
            lines.push(Line(vec![(style, news.to_string())]));
        }
        lines.truncate(size.rows);
        lines.iter_mut().for_each(|line| line.cut(columns));
        lines
    }

    /// Where there is no terminal: how things are, in one line.
    pub(crate) fn line(&self) -> String {
        let now = &self.now;
        let path = |of: PathOf| {
            let (packets, bits) = self.rate(of);
            format!("{} packets/s {}", whole(packets), gigabits(bits))
        };
        let (synthetic, vf) = (path(|traffic| traffic.synthetic), path(|traffic| traffic.vf));
        let counts: Vec<_> = self.faults().iter().map(|(name, count)| format!("{name} {}", grouped(*count))).collect();
        let at = now.elapsed.as_secs_f64();
        let (cycle, tcp) = (self.cycle(), bytes(now.tcp_bytes));
        format!("{at:8.3} s  {cycle}; synthetic {synthetic}; vf {vf}; {}; tcp {tcp}", counts.join(", "))
    }

    fn head(&self, columns: usize) -> Line {
        let at = format!("{:.1} s", self.now.elapsed.as_secs_f64());
        let name = if columns >= WIDE { "vf_failover  " } else { "" };
        let mut line = Line(vec![(Style::Title, name.into()), (Style::Plain, self.title.clone())]);
        line.cut(columns.saturating_sub(at.len() + 1));
        let space = columns.saturating_sub(line.width() + at.len());
        line.0.push((Style::Plain, format!("{:space$}{at}", "")));
        line
    }

    fn cycle(&self) -> String {
        let done = grouped(self.now.cycles.into());
        self.cycles.map_or(format!("cycle {done}"), |of| format!("cycle {done} of {}", grouped(of.into())))
    }

    fn bar(&self, columns: usize) -> Line {
        let (cycle, doing) = (format!("{}  ", self.cycle()), format!("  {}", self.now.doing));
        // Its end stays where it is, whatever is going on.
        let room = columns.saturating_sub(width(&cycle) + DOING).min(60);
        let mut line = Line(vec![(Style::Plain, cycle)]);
        if let Some(done) = self.progress() {
            let full = (done * room as f64) as usize;
            line.0.push((Style::Good, "█".repeat(full)));
            line.0.push((Style::Aside, "░".repeat(room - full)));
        }
        line.0.push((Style::Plain, doing));
        line
    }

    /// Both paths: rates on the left, their course on the right.
    fn paths(&self, columns: usize, height: usize) -> Vec<Line> {
        let room = columns.saturating_sub(LABEL);
        let paths: [(&str, Style, PathOf); 2] =
            [("synthetic", Style::Synthetic, |traffic| traffic.synthetic), ("vf", Style::Vf, |traffic| traffic.vf)];
        let courses = paths.map(|(.., path)| self.course(path, room));
        // The same for both.
        let most = courses.iter().flatten().copied().fold(1.0, f64::max);
        let mut lines = Vec::new();
        for ((name, style, path), course) in paths.into_iter().zip(courses) {
            let (packets, bits) = self.rate(path);
            let packets = format!("{:>10} /s ", whole(packets));
            let labels = [vec![(style, format!("{name:<9}")), (Style::Plain, packets)], {
                vec![(Style::Plain, format!("{:>22} ", gigabits(bits)))]
            }];
            let mut labels = labels.into_iter();
            for row in (0..height).rev() {
                let mut line = labels.next().unwrap_or_else(|| vec![(Style::Plain, " ".repeat(LABEL))]);
                // Now is at the right edge.
                let marks = course.iter().map(|rate| mark(rate / most * height as f64 - row as f64));
                line.push((style, " ".repeat(room - course.len()) + &marks.collect::<String>()));
                lines.push(Line(line));
            }
        }
        lines
    }

    /// What ought to be nothing.
    fn faults(&self) -> [(&'static str, u64); 4] {
        let Counts { lost, duplicated, reordered, .. } = self.now.flows;
        [("lost", lost), ("reported lost", self.now.reported), ("duplicated", duplicated), ("reordered", reordered)]
    }

    fn counts(&self) -> Vec<Line> {
        let now = &self.now;
        let mut faults = vec![(Style::Plain, format!("of {} frames: ", grouped(now.flows.sent)))];
        for (name, count) in self.faults() {
            if faults.len() > 1 {
                faults.push((Style::Plain, ", ".into()));
            }
            faults.push((fault(count), format!("{name} {}", grouped(count))));
        }
        let [to_vf, back] = now.switches;
        let arrived = format!(
            "tcp {} arrived; switches: {to_vf} to the vf, {back} back; longest silence {}",
            bytes(now.tcp_bytes),
            time(now.flows.gap)
        );
        vec![Line(faults), Line(vec![(Style::Plain, arrived)])]
    }

    /// The same in fewer words.
    fn few_counts(&self) -> Vec<Line> {
        let now = &self.now;
        let mut faults = Vec::new();
        for (name, (_, count)) in ["lost ", "told ", "twice ", "late "].iter().zip(self.faults()) {
            faults.push((fault(count), format!("{name}{}", grouped(count))));
            faults.push((Style::Plain, "  ".into()));
        }
        let [to_vf, back] = now.switches;
        let arrived = format!("tcp {}  switches {}  gap {}", bytes(now.tcp_bytes), to_vf + back, time(now.flows.gap));
        vec![Line(faults), Line(vec![(Style::Plain, arrived)])]
    }
}

/// Columns from which on there is room for all words.
const WIDE: usize = 60;
/// Columns beside a course.
const LABEL: usize = 23;
/// Columns beside the bar.
const DOING: usize = 16;

impl Line {
    fn width(&self) -> usize {
        self.0.iter().map(|(_, words)| width(words)).sum()
    }

    /// To this width.
    fn cut(&mut self, columns: usize) {
        let mut left = columns;
        for (_, words) in &mut self.0 {
            if let Some((end, _)) = words.char_indices().nth(left) {
                words.truncate(end);
            }
            left -= width(words);
        }
    }
}

/// Columns: no character here takes two.
fn width(text: &str) -> usize {
    text.chars().count()
}

/// Adds to what is kept, and forgets the oldest.
fn keep<T>(kept: &mut VecDeque<T>, most: usize, new: impl IntoIterator<Item = T>) {
    kept.extend(new);
    kept.drain(..kept.len().saturating_sub(most));
}

/// A column of a course that is so full in this row.
fn mark(share: f64) -> char {
    const MARKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    // Rounded up: what is little is to be seen, too.
    MARKS[(share * 8.0).ceil().clamp(0.0, 8.0) as usize]
}

fn fault(count: u64) -> Style {
    if count == 0 { Style::Good } else { Style::Bad }
}

fn whole(rate: f64) -> String {
    grouped(rate.round() as u64)
}

/// With a comma before each three digits.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn gigabits(bits: f64) -> String {
    format!("{:.3} Gbit/s", bits / 1e9)
}

fn bytes(count: u64) -> String {
    match count {
        0..10_000 => format!("{count} B"),
        10_000..10_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.2} GB", count as f64 / 1e9),
    }
}

/// In the unit that suits.
pub(crate) fn time(time: Duration) -> String {
    match time.as_micros() {
        micros @ 0..10_000 => format!("{micros} µs"),
        micros @ 10_000..10_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        micros => format!("{:.1} s", micros as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::told::By;

    /// A run at its twelfth second: on the rings at first, then by the VF, and back for a moment.
    fn picture() -> Picture {
        let mut picture = Picture::new("af_packet, orderly, seed 1".into(), Some(100), None);
        let mut traffic = Traffic::default();
        for tick in 1..=124_u64 {
            let by_vf = (31..90).contains(&tick) || (96..=124).contains(&tick);
            let (busy, idle) = if by_vf {
                (&mut traffic.vf, &mut traffic.synthetic)
            } else {
                (&mut traffic.synthetic, &mut traffic.vf)
            };
            busy.packets += 10_000 + 40 * tick;
            busy.bytes += 1200 * (10_000 + 40 * tick);
            idle.packets += u64::from(!by_vf || tick.is_multiple_of(10)) * u64::from(by_vf);
            let now = Now {
                elapsed: Duration::from_millis(100 * tick),
                doing: "vf in use",
                cycles: 23,
                traffic,
                tcp_bytes: 1_234_567_890,
                flows: Counts { sent: 49_600, gap: Duration::from_micros(12_345), ..Counts::default() },
                switches: [24, 23],
                reported: 0,
            };
            picture.update(now, []);
        }
        let news = |at: u64, by, text: &str| News { at: Duration::from_millis(at), by, text: text.into() };
        let events = [
            news(11_800, By::Host, "vf revoked"),
            news(11_801, By::Driver, "vf 23 taken back"),
            news(11_802, By::Driver, "frames go by the synthetic path, 35 µs later"),
            news(11_950, By::Host, "vf unplugged"),
            news(11_960, By::Host, "vf 24 plugged in"),
            news(11_961, By::Host, "vf 24 associated"),
            news(11_962, By::Driver, "vf 24 offered"),
            news(11_970, By::Driver, "vf open, its link is up"),
            news(11_975, By::Driver, "frames go by the vf, 511 µs later"),
        ];
        let now = picture.now;
        picture.samples.pop_back();
        picture.update(now, events);
        picture
    }

    fn text(picture: &Picture, columns: usize, rows: usize) -> String {
        let lines = picture.lines(Size { columns, rows });
        assert!(lines.len() <= rows, "{columns}x{rows}: {} lines", lines.len());
        let mut text = String::new();
        for line in lines {
            assert!(line.width() < columns.max(1), "{columns}x{rows}: {line:?}");
            let words: String = line.0.iter().map(|(_, words)| words.as_str()).collect();
            text += words.trim_end();
            text.push('\n');
        }
        text
    }

    #[test]
    fn in_a_usual_terminal() {
        assert_eq!(text(&picture(), 80, 24), include_str!("pictures/80x24.txt"));
    }

    #[test]
    fn in_a_large_terminal() {
        assert_eq!(text(&picture(), 120, 40), include_str!("pictures/120x40.txt"));
    }

    #[test]
    fn in_a_small_terminal() {
        assert_eq!(text(&picture(), 40, 12), include_str!("pictures/40x12.txt"));
    }

    #[test]
    fn it_fits_into_whatever_there_is() {
        // Around each width and height at which something changes.
        for columns in [0, 1, 2, 9, 16, 23, 24, 25, 39, 40, 59, 60, 61, 62, 100, 500] {
            for rows in (0..20).chain([24, 30, 60, 200]) {
                text(&picture(), columns, rows);
                text(&Picture::new("memory".into(), None, None), columns, rows);
            }
        }
    }

    #[test]
    fn losses_catch_the_eye() {
        let mut picture = picture();
        let mut now = picture.now;
        (now.flows.lost, now.reported) = (17, 16);
        picture.update(now, []);
        for columns in [40, 80] {
            let lines = picture.lines(Size { columns, rows: 24 });
            let bad: Vec<_> = lines.iter().flat_map(|line| &line.0).filter(|(style, _)| *style == Style::Bad).collect();
            let said: Vec<_> = bad.iter().map(|(_, words)| words.rsplit(' ').next()).collect();
            assert_eq!(said, [Some("17"), Some("16")], "{lines:?}");
        }
        let line = picture.line();
        assert!(line.contains("lost 17, reported lost 16, duplicated 0, reordered 0"), "{line}");
    }

    #[test]
    fn progress_is_of_what_ends_it_first() {
        let at = |cycles, limit, now| {
            let mut picture = Picture::new(String::new(), cycles, limit);
            picture.update(now, []);
            picture.progress()
        };
        let now = Now { elapsed: Duration::from_secs(2), cycles: 5, ..Now::default() };
        assert_eq!(at(Some(20), None, now), Some(0.25));
        assert_eq!(at(None, Some(Duration::from_secs(4)), now), Some(0.5));
        assert_eq!(at(Some(20), Some(Duration::from_secs(4)), now), Some(0.5));
        assert_eq!(at(Some(0), Some(Duration::ZERO), now), Some(1.0));
        assert_eq!(at(None, None, now), None);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [9_999, 10_000, 12_345_678, 10_000_000_000].map(bytes),
            ["9999 B", "10.0 kB", "12.3 MB", "10.00 GB"]
        );
        let times = [35, 9_999, 12_345, 12_345_678].map(|micros| time(Duration::from_micros(micros)));
        assert_eq!(times, ["35 µs", "9999 µs", "12.3 ms", "12.3 s"]);
    }
}
