//! `sprint train --dry-run`: a recipe as a table of its phases, or as TOML. Nothing is carried out.

use burn_dist::{Rank, WorldSize};

use super::train::{Args, open_pictures, planned_world_size, to_toml};
use crate::{
    config::{DataConfig, DataFacts, Plan, beside_plan},
    error::Result,
    recipe::{Phase, Ramp, RampRule, ValCrop},
    record::learning_rate,
};

/// How a recipe is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// A table of the phases
    Table,
    /// The configuration, which --config reads
    Toml,
}

/// Prints the recipe, by rank 0 of those that a launcher started.
pub(super) fn print(args: &Args, form: Form, launched: Option<Rank>) -> Result<()> {
    let has_data = args.sources().resolve()?.data.path.is_some();
    // Without pictures the recipe's own are meant, and with them its ranks.
    let world_size = launched.map(Rank::world_size).or(has_data.then_some(WorldSize::ONE));
    let (config, said) = args.configuration(world_size)?;
    if launched.is_some_and(|rank| !rank.is_main()) {
        return Ok(());
    }
    said.iter().for_each(|line| eprintln!("{line}"));
    let world_size = world_size.unwrap_or_else(|| planned_world_size(&config));
    let DataConfig { planned_images, planned_classes, .. } = config.data;
    let facts = match planned_images.zip(planned_classes).filter(|_| !has_data) {
        Some((num_train, num_classes)) => DataFacts { num_train, num_classes, channels: 3 },
        None => DataFacts::of(&open_pictures(&config)?.main().train),
    };
    let plan = Plan::new(config, facts, world_size)?;
    match form {
        Form::Toml => print!("{}", to_toml(&plan.config)?),
        Form::Table => {
            print!("{}", table(&plan, facts, world_size));
            if let Some(line) = beside_plan(&plan.config, &plan.schedule, world_size) {
                eprintln!("{line}");
            }
        }
    }
    Ok(())
}

const NUM_COLUMNS: usize = 13;
const HEADER: [&str; NUM_COLUMNS] = [
    "phase",
    "epochs",
    "px",
    "data",
    "validation",
    "batch/rank",
    "global batch",
    "it/epoch",
    "last",
    "lr",
    "to step",
    "images",
    "time",
];
/// Words stand to the left, numbers to the right.
const IS_WORD: [bool; NUM_COLUMNS] =
    [false, false, false, true, true, false, false, false, false, true, false, false, false];

/// The table, with a line about the network and the data above it.
fn table(plan: &Plan, facts: DataFacts, world_size: WorldSize) -> String {
    let schedule = &plan.schedule;
    let ranks = world_size.count() as u64;
    let mut rows = vec![HEADER.map(str::to_owned)];
    for index in 0..schedule.num_phases() {
        let phase = schedule.phase(index);
        let (first_epoch, end_epoch) = schedule.epochs_of(index);
        let epoch = schedule.epoch_shape(index);
        rows.push([
            (index + 1).to_string(),
            format!("{first_epoch}-{end_epoch}"),
            phase.size.to_string(),
            phase.data.clone().unwrap_or_else(|| "-".into()),
            validation(phase),
            grouped(phase.batch_size as u64),
            grouped(phase.batch_size as u64 * ranks),
            grouped(epoch.num_steps),
            grouped(epoch.last_batch_size as u64),
            rate(phase.lr, schedule.lr_ends(index)),
            grouped(schedule.steps_of(index).1 - 1),
            grouped(schedule.num_images_of(index) * ranks),
            "-".into(),
        ]);
    }
    let mut total = [const { String::new() }; NUM_COLUMNS];
    total[0] = "total".into();
    total[1] = schedule.num_epochs().to_string();
    total[10] = grouped(schedule.num_steps());
    total[11] = grouped(schedule.num_images() * ranks);
    total[12] = "-".into();
    rows.push(total);

    let config = &plan.config;
    let mut text = format!(
        "{}: ResNet-{} of {} parameters in {}, {} images of {} classes, {ranks} rank{}\n\n",
        config.name,
        plan.model.depth(),
        grouped(plan.model.num_params()),
        config.precision,
        grouped(facts.num_train as u64),
        grouped(facts.num_classes as u64),
        if ranks == 1 { "" } else { "s" },
    );
    text.push_str(&aligned(&rows));
    text
}

/// `224/255` for the centre of pictures whose short side is 255 pixels.
fn validation(phase: &Phase) -> String {
    let (size, resize) = phase.validation();
    match phase.val {
        ValCrop::Center => format!("{size}/{resize}"),
        ValCrop::Rect => format!("{size}/{resize} rect"),
    }
}

fn rate(ramp: Ramp, (from, to): (f64, f64)) -> String {
    let ends = match from == to {
        true => learning_rate(from),
        false => format!("{} -> {}", learning_rate(from), learning_rate(to)),
    };
    match ramp {
        Ramp::Rule(RampRule::Cosine { .. }) => format!("{ends} cosine"),
        Ramp::Rule(RampRule::Poly { power, .. }) => format!("{ends} power {power}"),
        Ramp::Rule(RampRule::Step { factor, every, .. }) => format!("{ends} x {factor} every {every}"),
        _ => ends,
    }
}

/// Columns as wide as their widest cell, two spaces between them.
fn aligned(rows: &[[String; NUM_COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or_default();
    let widths: [usize; NUM_COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).zip(IS_WORD).map(|((cell, width), is_word)| match is_word {
            true => format!("{cell:<width$}"),
            false => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// `1,281,167`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let first = (digits.len() - 1) % 3 + 1;
    let mut text = digits[..first].to_owned();
    for start in (first..digits.len()).step_by(3) {
        text.push(',');
        text.push_str(&digits[start..start + 3]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_stand_in_threes() {
        let numbers = [0, 7, 42, 999, 1000, 12_345, 123_456, 1_281_167].map(grouped);
        assert_eq!(numbers, ["0", "7", "42", "999", "1,000", "12,345", "123,456", "1,281,167"]);
    }
}
