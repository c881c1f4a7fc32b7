//! The table of what a run trains: which weights, with which learning rate and weight decay.

use crate::models::hf_names::HfNames;
use crate::nn::layout::HyperParams;
use crate::nn::param_builder::ParamSpec;
use crate::observe::table::table;
use crate::train::selection::Catalog;
use std::collections::BTreeSet;

/// The weights of one row.
struct Row {
    trained: bool,
    /// Number of steps before the first that trains them.
    starts: u64,
    hyper: HyperParams,
    members: Vec<usize>,
}

/// Returns the table: a row for each distinct first step, learning rate and weight decay, and one for frozen weights. `peak` and
/// `weight_decay` are those of the run.
pub fn trained_table(specs: &[ParamSpec], names: &HfNames, peak: f64, weight_decay: f64) -> String {
    let catalog = Catalog::new(specs, names);
    let mut rows: Vec<Row> = Vec::new();
    let key = |row: &Row| row.trained.then(|| (row.starts, row.hyper.rate, row.hyper.weight_decay(weight_decay)));
    for (i, spec) in specs.iter().enumerate() {
        let own = Row { trained: spec.trainable, starts: spec.starts, hyper: HyperParams::of(spec), members: vec![i] };
        match rows.iter_mut().find(|row| key(row) == key(&own)) {
            Some(row) => row.members.push(i),
            None => rows.push(own),
        }
    }
    // In the order of training, from the highest rate down, frozen weights last.
    let order = |a: &Row, b: &Row| a.starts.cmp(&b.starts).then(b.hyper.rate.total_cmp(&a.hyper.rate));
    rows.sort_by(|a, b| b.trained.cmp(&a.trained).then_with(|| order(a, b)));
    let cells = |row: &Row| {
        let elements: i64 = row.members.iter().map(|&i| specs[i].numel()).sum();
        let of_trained = |text: String| if row.trained { text } else { "-".to_owned() };
        vec![
            name(specs, &catalog, &row.members),
            row.members.iter().map(|&i| catalog.0[i].parts.len()).sum::<usize>().to_string(),
            elements.to_string(),
            match (row.trained, row.starts) {
                (false, _) => "no".to_owned(),
                (true, 0) => "yes".to_owned(),
                (true, starts) => format!("from step {}", starts + 1),
            },
            of_trained(format!("{:e}", rounded(peak * row.hyper.rate))),
            of_trained(row.hyper.weight_decay(weight_decay).to_string()),
        ]
    };
    let head = ["group", "tensors", "parameters", "trained", "learning rate", "weight decay"];
    table(&head, &rows.iter().map(cells).collect::<Vec<_>>())
}

/// Returns a number with six significant digits.
fn rounded(x: f64) -> f64 {
    format!("{x:.5e}").parse().unwrap_or(x)
}

/// Returns the name of a set of weights: `embeddings, layers.0-3`, with what they have in common.
fn name(specs: &[ParamSpec], catalog: &Catalog, members: &[usize]) -> String {
    let weights = || members.iter().map(|&i| (&specs[i], &catalog.0[i]));
    let all = |holds: fn(&str) -> bool| members.iter().all(|&i| catalog.0[i].parts.iter().all(|name| holds(name)));
    let mut places = Vec::new();
    if weights().any(|(spec, weight)| weight.layer.is_none() && spec.block == 0) {
        places.push("embeddings".to_owned());
    }
    let layers: BTreeSet<usize> = weights().filter_map(|(_, weight)| Some(weight.layer.as_ref()?.number)).collect();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for layer in layers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == layer => *last = layer,
            _ => runs.push((layer, layer)),
        }
    }
    let run = |&(first, last): &(usize, usize)| match first == last {
        true => format!("layers.{first}"),
        false => format!("layers.{first}-{last}"),
    };
    places.extend(runs.iter().map(run));
    let above = || weights().filter(|(spec, weight)| weight.layer.is_none() && spec.block != 0);
    if above().any(|(_, weight)| !weight.is_head) {
        places.push("final norm".to_owned());
    }
    if above().any(|(_, weight)| weight.is_head) {
        places.push("head".to_owned());
    }
    let kind = match members.iter().all(|&i| !specs[i].decay) {
        _ if all(|name| name.ends_with(".bias")) => ": biases",
        true => ": biases and norms",
        false if members.iter().all(|&i| specs[i].decay) => ": matrices",
        false => "",
    };
    places.join(", ") + kind
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::hf_names::HfParam;
    use crate::nn::{Init, ParamBuilder};

    /// Embeddings, three layers and a head: the second layer has another rate, the embeddings are frozen.
    #[test]
    fn a_row_for_each_rate_and_decay() {
        let mut b = ParamBuilder::new();
        b.weight("words.weight", &[10, 4], Init::Zeros);
        for layer in 0..3 {
            b.block(layer + 1, |b| {
                b.weight(&format!("layer.{layer}.weight"), &[4, 4], Init::Zeros);
                b.vector(&format!("layer.{layer}.bias"), 4, Init::Zeros)
            });
        }
        b.block(4, |b| b.newly_initialized(|b| b.weight("classifier.weight", &[2, 4], Init::Zeros)));
        let mut specs = b.finish();
        specs[0].trainable = false;
        (specs[3].rate, specs[4].rate) = (0.1, 0.1);
        let params = specs.iter().map(|spec| HfParam::new(spec.name.clone(), [spec.name.clone()])).collect();
        let names = HfNames { prefix: "", headless: false, params, legacy: &[] };
        let text = trained_table(&specs, &names, 1e-3, 0.01);
        let cells = |line: &str| -> Vec<String> {
            let cells = line.split(['│', '┆', '|']).map(str::trim).filter(|cell| !cell.is_empty());
            cells
                .flat_map(|cell| cell.split("  "))
                .map(str::trim)
                .filter(|c| !c.is_empty())
                .map(str::to_owned)
                .collect()
        };
        let rows: Vec<Vec<String>> =
            text.lines().map(cells).filter(|row| row.len() == 6 && row[0] != "group").collect();
        let wanted = [
            ["layers.0, layers.2, head: matrices", "3", "40", "yes", "1e-3", "0.01"],
            ["layers.0, layers.2: biases", "2", "8", "yes", "1e-3", "0"],
            ["layers.1: matrices", "1", "16", "yes", "1e-4", "0.01"],
            ["layers.1: biases", "1", "4", "yes", "1e-4", "0"],
            ["embeddings: matrices", "1", "40", "no", "-", "-"],
        ];
        assert_eq!(rows, wanted, "{text}");
        assert_eq!(trained_table(&specs, &names, 1e-3, 0.0).lines().filter(|line| line.contains("yes")).count(), 2);
        specs[1].starts = 4;
        let text = trained_table(&specs, &names, 1e-3, 0.0);
        assert!(text.lines().any(|line| line.contains("layers.0: matrices") && line.contains("from step 5")), "{text}");
    }
}
