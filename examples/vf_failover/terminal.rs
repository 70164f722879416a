//! Where the picture is shown: the terminal's other screen, which leaves what was there before as it was.
//!
//! The picture is on standard error, so that standard output has the report alone. Each frame is one write, from the upper left
//! corner on: nothing is cleared that is not overwritten at once, and a terminal whose size has changed is whole again with
//! the next frame. However the program ends, but for `kill -9`, the terminal is as it was: after a panic, too.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{self, LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use crate::picture::{Line, Size, Style};

/// The other screen, without cursor and line breaks of its own.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[J";
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What is between these is shown at once, by terminals that know them.
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[J\x1b[?2026l";

/// How the terminal was set while it shows a picture.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// A terminal that shows a picture. There is one at most.
#[derive(Debug)]
pub(crate) struct Screen {
    colours: bool,
}

impl Screen {
    /// `None` if standard error is no terminal, one that cannot show pictures, or one that another job has.
    pub(crate) fn enter() -> Option<Self> {
        let stderr = std::io::stderr();
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if !stderr.is_terminal() || set("TERM").is_none_or(|term| term == "dumb") {
            return None;
        }
        let foreground = termios::tcgetpgrp(&stderr).map_or(true, |group| group == rustix::process::getpgrp());
        let before = termios::tcgetattr(&stderr).ok().filter(|_| foreground)?;
        let mut now = before.clone();
        // What is typed would be shown in the picture. Interrupts are to work; who is stopped cannot tidy up.
        now.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
        now.special_codes[SpecialCodeIndex::VSUSP] = 0;
        termios::tcsetattr(&stderr, OptionalActions::Now, &now).ok()?;
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            // What a panic says would be gone with the other screen.
            let hook = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                hook(panic);
            }));
        });
        write(ENTER);
        Some(Self { colours: set("NO_COLOR").is_none() })
    }

    /// Its size now.
    pub(crate) fn size(&self) -> Size {
        let size = termios::tcgetwinsize(std::io::stderr()).ok();
        // Serial lines do not know theirs.
        let known = |cells: u16, usual| if cells == 0 { usual } else { usize::from(cells) };
        size.map_or(Size::default(), |size| Size { columns: known(size.ws_col, 80), rows: known(size.ws_row, 24) })
    }

    /// Shows these lines, which fit.
    pub(crate) fn show(&self, lines: &[Line]) {
        let text = frame(lines, self.colours);
        // A panic may have ended it; meanwhile nobody does.
        let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner);
        if before.is_some() {
            write(&text);
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back as it was, if it shows a picture.
pub(crate) fn leave() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        write(LEAVE);
        // Nothing can be done about a terminal that has gone. What was typed is not for who comes next.
        let _ = termios::tcsetattr(std::io::stderr(), OptionalActions::Flush, &before);
    }
}

/// Nobody looks any more if it fails: the numbers at the end are what counts.
fn write(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
}

/// What a terminal has to be sent to show these lines and nothing else.
fn frame(lines: &[Line], colours: bool) -> String {
    let mut text = String::from(BEGIN);
    for (number, line) in lines.iter().enumerate() {
        if number > 0 {
            text += "\r\n";
        }
        for (style, words) in &line.0 {
            match code(*style).filter(|_| colours) {
                Some(code) => text += &format!("\x1b[{code}m{words}\x1b[m"),
                None => text += words,
            }
        }
        text += "\x1b[K";
    }
    text + END
}

/// ECMA-48, Select Graphic Rendition: of the eight colours that every terminal lets its user choose.
fn code(style: Style) -> Option<&'static str> {
    match style {
        Style::Plain => None,
        Style::Title => Some("1"),
        Style::Aside => Some("2"),
        Style::Synthetic => Some("33"),
        Style::Vf => Some("36"),
        Style::Good => Some("32"),
        Style::Bad => Some("1;31"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Vec<Line> {
        vec![Line(vec![(Style::Plain, "lost ".into()), (Style::Good, "0".into())]), Line(vec![])]
    }

    #[test]
    fn a_frame_overwrites_the_one_before() {
        let text = frame(&lines(), true);
        assert_eq!(text, "\x1b[?2026h\x1b[Hlost \x1b[32m0\x1b[m\x1b[K\r\n\x1b[K\x1b[J\x1b[?2026l");
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        let text = frame(&lines(), false);
        assert_eq!(text, "\x1b[?2026h\x1b[Hlost 0\x1b[K\r\n\x1b[K\x1b[J\x1b[?2026l");
    }
}
