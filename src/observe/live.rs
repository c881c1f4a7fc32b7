//! A text on standard output that replaces the one before it, on a terminal.

use console::Term;

/// Columns where the output is no terminal.
const WIDTH: usize = 80;

/// What is shown now.
#[derive(Debug)]
pub struct Live {
    term: Term,
    text: String,
}

impl Default for Live {
    fn default() -> Self {
        Live { term: Term::stdout(), text: String::new() }
    }
}

impl Live {
    /// Returns the number of columns to use.
    pub fn width(&self) -> usize {
        if self.term.is_term() { usize::from(self.term.size().1).clamp(40, 120) } else { WIDTH }
    }

    /// Prints the text if it is another one than before.
    pub fn show(&mut self, text: String) {
        if text == self.text {
            return;
        }
        if self.term.is_term() {
            // What has scrolled out of the terminal stays there.
            let lines = self.text.lines().count().min(usize::from(self.term.size().0).saturating_sub(1));
            _ = self.term.clear_last_lines(lines);
        }
        super::print(&text);
        self.text = text;
    }
}
