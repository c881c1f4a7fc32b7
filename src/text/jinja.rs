//! The Jinja environment for chat templates, matching `transformers.utils.chat_template_utils`, with values formatted
//! as in Python.

use super::python_format::{float, python_str};
use super::python_methods;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value as Jinja, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, escape_formatter};
use serde_json::Value;
use std::time::{SystemTime, UNIX_EPOCH};

/// Creates an environment without templates.
pub(super) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_unknown_method_callback(python_methods::call);
    environment.set_formatter(|out, state, value| match python_str(value) {
        Some(text) => Ok(out.write_str(&text)?),
        None => escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: Jinja| python_str(&value).unwrap_or_else(|| value.to_string()));
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Jinja| match value.len() {
            Some(length) => Ok(length),
            None if value.is_undefined() => Ok(0),
            None => Err(Error::new(ErrorKind::InvalidOperation, format!("{} has no length", value.kind()))),
        });
    }
    // In minijinja, none can be iterated over, and only lists are sequences.
    environment.add_test("iterable", |value: &Jinja| !value.is_none() && value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Jinja| {
        use ValueKind::{Bytes, Map, Seq, String, Undefined};
        matches!(value.kind(), Undefined | String | Bytes | Seq | Map)
    });
    environment.add_function("raise_exception", |message: String| -> Result<Jinja, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("cycler", minijinja_contrib::globals::cycler);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        strftime(&format, now)
    });
    environment
}

/// The `tojson` filter: Python's `json.dumps(value, ensure_ascii=False)` and its keyword arguments.
fn tojson(value: &Jinja, arguments: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "tojson of an undefined value"));
    }
    let wrong = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let value = serde_json::to_value(value).map_err(wrong)?;
    let indent: Option<usize> = arguments.get("indent")?;
    let separators: Option<Vec<String>> = arguments.get("separators")?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ascii = arguments.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let sorted = arguments.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    arguments.assert_all_used()?;
    let mut out = String::new();
    Dump { indent, item, key, ascii, sorted }.write(&value, 0, &mut out);
    Ok(out)
}

/// The arguments of `json.dumps`.
struct Dump {
    indent: Option<usize>,
    item: String,
    key: String,
    ascii: bool,
    sorted: bool,
}

impl Dump {
    fn write(&self, value: &Value, depth: usize, out: &mut String) {
        match value {
            Value::Array(items) => {
                self.items('[', ']', items.iter(), depth, out, |item, out| self.write(item, depth + 1, out));
            }
            Value::Object(map) => {
                let mut entries: Vec<(&String, &Value)> = map.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                self.items('{', '}', entries.into_iter(), depth, out, |(key, value), out| {
                    self.string(key, out);
                    out.push_str(&self.key);
                    self.write(value, depth + 1, out);
                });
            }
            Value::String(text) => self.string(text, out),
            Value::Number(number) if number.is_f64() => out.push_str(&number.as_f64().map(float).unwrap_or_default()),
            other => out.push_str(&other.to_string()),
        }
    }

    fn items<T>(
        &self,
        open: char,
        close: char,
        items: impl ExactSizeIterator<Item = T>,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(T, &mut String),
    ) {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(' ', indent * depth));
            }
        };
        let is_empty = items.len() == 0;
        out.push(open);
        for (i, item) in items.enumerate() {
            if i > 0 {
                out.push_str(&self.item);
            }
            line(depth + 1, out);
            write(item, out);
        }
        if !is_empty {
            line(depth, out);
        }
        out.push(close);
    }

    fn string(&self, text: &str, out: &mut String) {
        for c in Value::from(text).to_string().chars() {
            if self.ascii && c > '~' {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Days of a year before each month, without a leap day.
const BEFORE: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];

/// Formats a Unix time like Python's `strftime` with glibc, in UTC, without its time zone; unknown directives stay
/// unchanged.
pub(super) fn strftime(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut next = chars.next();
        // A flag of glibc: without padding.
        let is_bare = next == Some('-');
        if is_bare {
            next = chars.next();
        }
        let padded = |n: u64, width: usize| if is_bare { n.to_string() } else { format!("{n:0width$}") };
        let again = |format: &str| strftime(format, seconds);
        out += &match next {
            Some('Y') => year.to_string(),
            Some('y') => padded(year % 100, 2),
            Some('m') => padded(month, 2),
            Some('d') => padded(day, 2),
            Some('e') => {
                if is_bare {
                    day.to_string()
                } else {
                    format!("{day:2}")
                }
            }
            Some('j') => {
                let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
                padded(BEFORE[month as usize - 1] + day + u64::from(is_leap && month > 2), 3)
            }
            Some('B') => MONTHS[month as usize - 1].to_owned(),
            Some('b' | 'h') => MONTHS[month as usize - 1][..3].to_owned(),
            Some('A') => DAYS[(days % 7) as usize].to_owned(),
            Some('a') => DAYS[(days % 7) as usize][..3].to_owned(),
            Some('H') => padded(hour, 2),
            Some('I') => padded((hour + 11) % 12 + 1, 2),
            Some('M') => padded(minute, 2),
            Some('S') => padded(second % 60, 2),
            Some('p') => ["AM", "PM"][usize::from(hour >= 12)].to_owned(),
            Some('F') => again("%Y-%m-%d"),
            Some('D' | 'x') => again("%m/%d/%y"),
            Some('T' | 'X') => again("%H:%M:%S"),
            Some('R') => again("%H:%M"),
            Some('c') => again("%a %b %e %H:%M:%S %Y"),
            Some('Z' | 'z') => String::new(),
            Some('%') => "%".to_owned(),
            Some(other) => format!("%{}{other}", if is_bare { "-" } else { "" }),
            None => format!("%{}", if is_bare { "-" } else { "" }),
        };
    }
    out
}

/// Returns year, month and day from days since 1970-01-01 (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    // Years start in March, and eras are 400 years long, counted from year 0.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, context: Value) -> String {
        environment().template_from_str(source).unwrap().render(minijinja::value::Serde(context)).unwrap()
    }

    #[test]
    fn values_are_formatted_as_in_python() {
        let context = serde_json::json!({"x": {"b": [1, 2.5, true, null], "a": "ä\n\"\u{1f600}"}, "e": []});
        assert_eq!(render("{{ x | tojson }}", context.clone()), r#"{"b": [1, 2.5, true, null], "a": "ä\n\"😀"}"#);
        let ascii = r#"{"a":"\u00e4\n\"\ud83d\ude00","b":[1,2.5,true,null]}"#;
        let source = "{{ x | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=True) }}";
        assert_eq!(render(source, context.clone()), ascii);
        let indented = "{\n  \"b\": [\n    1,\n    2.5,\n    true,\n    null\n  ],\n  \"a\": \"ä\\n\\\"😀\"\n}";
        assert_eq!(render("{{ x | tojson(indent=2) }}", context.clone()), indented);
        assert_eq!(render("{{ e | tojson(indent=2) }}{{ {} | tojson }}", context.clone()), "[]{}");
        assert_eq!(render("{{ none }} {{ true }} {{ false | string }} {{ nothing }}|", context), "None True False |");
    }

    /// Values of Jinja2 3.1.6.
    #[test]
    fn tests_are_those_of_jinja2() {
        let context = serde_json::json!({"s": "a", "l": [], "m": {}, "n": 1, "none_": null});
        let source = "{% for x in [s, l, m, n, none_, nothing, true] %}\
                      {{ 1 if x is iterable else 0 }}{{ 1 if x is sequence else 0 }}{{ 1 if x is mapping else 0 }}\
                      {{ 1 if x is number else 0 }}{{ 1 if x is none else 0 }} {% endfor %}";
        assert_eq!(render(source, context.clone()), "11000 11000 11100 00010 00001 11000 00010 ");
        assert_eq!(
            render("{{ nothing | length }}{{ 'a' in nothing }}{{ none_.x is defined }}", context.clone()),
            "0FalseFalse"
        );
        assert_eq!(render("{{ [s, none_] }}{{ l | string }}", context), "['a', None][]");
    }

    #[test]
    fn blocks_leave_no_blank_lines() {
        let source = "a\n  {% if true %}\nb\n  {% endif %}\n{% for x in [1, 2, 3] %}{% if x == 3 %}{% break %}{% endif %}{{ x }}{% endfor %}\n";
        assert_eq!(render(source, Value::Null), "a\nb\n12");
        assert_eq!(render("{{ [1, 2][::-1] }}{{ ' a '.strip() }}", Value::Null), "[2, 1]a");
    }

    #[test]
    fn dates_follow_the_calendar() {
        let at = |seconds| strftime("%Y-%m-%d %b %B %a %A %H:%M:%S %y %% %Q", seconds);
        assert_eq!(at(0), "1970-01-01 Jan January Thu Thursday 00:00:00 70 % %Q");
        assert_eq!(at(951_827_696), "2000-02-29 Feb February Tue Tuesday 12:34:56 00 % %Q");
        assert_eq!(at(1_735_689_599), "2024-12-31 Dec December Tue Tuesday 23:59:59 24 % %Q");
        let more = |seconds| strftime("%-d.%-m. %e %j %I %p %-I %F %T %c|%Z", seconds);
        assert_eq!(more(1_735_689_599), "31.12. 31 366 11 PM 11 2024-12-31 23:59:59 Tue Dec 31 23:59:59 2024|");
        assert_eq!(more(1_709_251_200), "1.3.  1 061 12 AM 12 2024-03-01 00:00:00 Fri Mar  1 00:00:00 2024|");
        assert!(render("{{ strftime_now('%Y') }}", Value::Null).parse::<u32>().unwrap() > 2024);
    }

    #[test]
    fn a_template_can_raise_an_exception() {
        let source = "a\n{{ raise_exception('no tools') }}";
        let e = environment().template_from_str(source).unwrap().render(()).unwrap_err();
        assert_eq!((e.detail(), e.line()), (Some("no tools"), Some(2)));
    }
}
