//! Time limits in the format of sbatch(1)'s `--time`.

use crate::error::{Error, Result};

/// Returns the seconds of a time limit; `None` for no limit, which is 0, `UNLIMITED` or `INFINITE`.
///
/// # Errors
/// Kind `Input` for a format other than `minutes`, `minutes:seconds`, `hours:minutes:seconds`, `days-hours`,
/// `days-hours:minutes` and `days-hours:minutes:seconds`.
pub(super) fn seconds(text: &str) -> Result<Option<u64>> {
    const UNITS: [u64; 4] = [24 * 3600, 3600, 60, 1];
    if ["unlimited", "infinite"].contains(&text.to_lowercase().as_str()) {
        return Ok(None);
    }
    let (days, rest) = text.split_once('-').map_or((None, text), |(days, rest)| (Some(days), rest));
    let fields: Vec<&str> = days.into_iter().chain(rest.split(':')).collect();
    // The unit of the first field; the units of the others follow.
    let first = match (days, fields.len()) {
        (Some(_), 2..=4) => 0,
        (None, 3) => 1,
        (None, 1 | 2) => 2,
        _ => UNITS.len(),
    };
    let number = |field: &&str| field.bytes().all(|c| c.is_ascii_digit()).then(|| field.parse::<u32>().ok()).flatten();
    let numbers: Option<Vec<u32>> = fields.iter().map(number).collect();
    let Some(numbers) = numbers.filter(|_| first < UNITS.len()) else {
        return Err(Error::input(format!(
            "--time {text}: expected minutes, minutes:seconds, hours:minutes:seconds, or days-hours[:minutes[:seconds]]"
        )));
    };
    let sum: u64 = numbers.iter().zip(&UNITS[first..]).map(|(&number, unit)| u64::from(number) * unit).sum();
    Ok(Some(sum).filter(|&seconds| seconds > 0))
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn the_formats_of_sbatch() {
        let (minute, hour, day) = (60, 3600, 86400);
        for (text, expected) in [
            ("90", Some(90 * minute)),
            ("1:30", Some(90)),
            ("1:30:05", Some(90 * minute + 5)),
            ("2-12", Some(2 * day + 12 * hour)),
            ("2-12:30", Some(2 * day + 12 * hour + 30 * minute)),
            ("0-00:00:59", Some(59)),
            ("0", None),
            ("UNLIMITED", None),
            ("infinite", None),
        ] {
            assert_eq!(seconds(text).unwrap(), expected, "{text}");
        }
        for text in ["", "1h", "-5", "1:2:3:4", "1-", "1-2:3:4:5", "+5", "1.5", "99999999999"] {
            assert!(seconds(text).unwrap_err().to_string().contains(&format!("--time {text}: ")), "{text}");
        }
    }
}
