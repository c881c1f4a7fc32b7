//! HTML pages of one file: text, tables and charts, without anything from the network.

mod chart;

pub use chart::{Chart, Series};

use crate::error::Result;
use crate::observe::whole_file;
use std::fmt::{Display, Write};
use std::path::Path;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");
/// Most charts of a page, which is to stay small.
const CHARTS: usize = 200;
/// Nothing is loaded, and only the page's own script runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

/// A page that is being written. All texts are escaped.
#[derive(Debug, Default)]
pub struct Page {
    title: String,
    body: String,
}

/// A cell of a table.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    Text(String),
    Number(String),
    /// A number, and a share in [0, 1] that is shown as the depth of a color.
    Shaded(String, f64),
}

impl Cell {
    pub fn text(text: impl Display) -> Self {
        Cell::Text(text.to_string())
    }

    pub fn number(number: impl Display) -> Self {
        Cell::Number(number.to_string())
    }
}

impl Page {
    pub fn new(title: &str) -> Self {
        Page { title: title.to_owned(), body: format!("<h1>{}</h1>\n", escape(title)) }
    }

    pub fn heading(&mut self, text: &str) {
        self.add(format_args!("<h2>{}</h2>\n", escape(text)));
    }

    pub fn paragraph(&mut self, text: &str) {
        self.add(format_args!("<p>{}</p>\n", escape(text)));
    }

    /// Adds a text of lines behind its title, on which one clicks.
    pub fn details(&mut self, title: &str, text: &str) {
        let (title, text) = (escape(title), escape(text));
        self.add(format_args!("<details><summary>{title}</summary><pre>{text}</pre></details>\n"));
    }

    /// Adds a table; nothing if it has no rows.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<Cell>]) {
        if rows.is_empty() {
            return;
        }
        self.body.push_str("<div class=\"wide\"><table>\n<thead><tr>");
        head.iter().for_each(|name| self.add(format_args!("<th>{}</th>", escape(name))));
        self.body.push_str("</tr></thead>\n<tbody>\n");
        for row in rows {
            self.body.push_str("<tr>");
            for cell in row {
                match cell {
                    Cell::Text(text) => self.add(format_args!("<td>{}</td>", escape(text))),
                    Cell::Number(text) => self.add(format_args!("<td class=\"n\">{}</td>", escape(text))),
                    Cell::Shaded(text, share) => {
                        let (text, share) = (escape(text), share.clamp(0.0, 1.0));
                        self.add(format_args!("<td class=\"n s\" style=\"--share:{share:.3}\">{text}</td>"));
                    }
                }
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody>\n</table></div>\n");
    }

    /// Adds charts side by side, those that have points, and of very many only the first. To be called once: the points
    /// that a page may have are divided over the series of these charts.
    pub fn charts(&mut self, charts: &[Chart]) {
        self.body.push_str("<div class=\"charts\">\n");
        Chart::all(&charts[..charts.len().min(CHARTS)]).iter().for_each(|html| self.body.push_str(html));
        self.body.push_str("</div>\n");
        if charts.len() > CHARTS {
            self.paragraph(&format!("{} more charts are not shown.", charts.len() - CHARTS));
        }
    }

    fn add(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        _ = self.body.write_fmt(text);
    }

    /// Returns the page.
    pub fn html(&self) -> String {
        let Page { title, body } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<title>{}</title>\n\
             <style>\n{STYLE}</style>\n</head>\n<body>\n{body}<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            escape(title)
        )
    }

    /// Writes the page as a file, which is never there in part.
    ///
    /// # Errors
    /// As [`whole_file::write`].
    pub fn write(&self, path: &Path) -> Result<()> {
        whole_file::write(path, self.html())
    }
}

/// Returns a text as HTML, also within quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // HTML has no control characters but these.
            c if c.is_control() && !matches!(c, '\n' | '\t') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_text_is_escaped() {
        const EVIL: &str = "<script>alert('x')</script>\"&\0";
        let mut page = Page::new(EVIL);
        page.heading(EVIL);
        page.paragraph(EVIL);
        page.details(EVIL, EVIL);
        page.table(&[EVIL], &[vec![Cell::text(EVIL), Cell::number(EVIL), Cell::Shaded(EVIL.into(), 0.5)]]);
        let series = vec![Series { name: EVIL.into(), points: vec![(1.0, 2.0)] }; 2];
        page.charts(&[Chart { title: EVIL.into(), series }]);
        let html = page.html();
        assert!(!html.contains("<script>alert") && !html.contains('\0'), "{html}");
        assert_eq!(html.matches("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&amp;\u{fffd}").count(), 16);
    }

    #[test]
    fn pages_of_many_charts_are_small() {
        let series = |count: usize, length: u32| {
            let points = (0..length).map(|i| (f64::from(i), 1.0 / f64::from(i + 3))).collect();
            let series = vec![Series { name: "eval_first_accuracy".into(), points }];
            vec![Chart { title: "eval_first_accuracy".into(), series }; count]
        };
        for (count, length) in [(1, 100_000), (100, 2000), (200, 2000), (200, 30), (1000, 2000)] {
            let mut page = Page::new("test");
            page.charts(&series(count, length));
            let html = page.html();
            assert!(html.len() < 1_600_000, "{count} charts of {length} points: {} bytes", html.len());
            assert_eq!(html.matches("<figure>").count(), count.min(CHARTS));
            assert_eq!(html.contains("<p>800 more charts are not shown.</p>"), count == 1000);
        }
    }

    #[test]
    fn line_breaks_are_shown_and_long_words_are_broken() {
        let rules: Vec<&str> = STYLE.split('}').collect();
        let has = |selector: &str, rule: &str| {
            rules.iter().any(|own| own.trim_start().starts_with(selector) && own.contains(rule))
        };
        assert!(has("td {", "white-space: pre-wrap") && has("th, td {", "overflow-wrap: anywhere"));
    }
}
