//! What machines cost: prices for an hour, and from them the money of a run. Pure; the prices are `clusters/prices.toml`.
//!
//! A run on several machines pays for all of them from its start to its end; what a provider rounds up, and the hours
//! before and after the run, are not in it.

use std::fmt;

use serde::{Deserialize, Serialize};

const PRICES: &str = include_str!("../../clusters/prices.toml");

/// What one machine costs for an hour, in US dollars.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// What a cluster or a user calls it.
    pub name: String,
    /// Who lets it.
    pub provider: String,
    /// The provider's name for the machine.
    pub machine: String,
    /// GPUs of a machine.
    pub gpus: u32,
    /// For an hour, on demand.
    pub on_demand_usd: f64,
    /// For an hour of a machine that may be taken away: the lowest and the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_usd: Option<[f64; 2]>,
    /// When it was so, as `2018-09`.
    pub date: String,
    /// Who says so.
    pub source: String,
}

/// The money of a run, in US dollars.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Cost {
    /// At the price on demand.
    pub on_demand_usd: f64,
    /// At the lowest and the highest spot price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spot_usd: Option<[f64; 2]>,
}

/// `$118.07 on demand, $35.42 to $38.82 spot`.
impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${:.2} on demand", self.on_demand_usd)?;
        match self.spot_usd {
            Some([low, high]) => write!(f, ", ${low:.2} to ${high:.2} spot"),
            None => Ok(()),
        }
    }
}

/// Words that are no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("price {0}: expected US dollars for an hour of a machine, 0 or more, or one of: {1}")]
pub struct PriceError(String, String);

impl Price {
    /// A price that the user gives.
    pub fn of_user(on_demand_usd: f64) -> Self {
        Self {
            name: "given".into(),
            provider: "given".into(),
            machine: "machine".into(),
            gpus: 0,
            on_demand_usd,
            spot_usd: None,
            date: String::new(),
            source: "the user".into(),
        }
    }

    /// The prices that the program knows.
    pub fn known() -> Vec<Self> {
        #[derive(Deserialize)]
        struct List {
            price: Vec<Price>,
        }
        let List { price } =
            toml::from_str(PRICES).expect("the embedded prices are TOML of this form: tested");
        price
    }

    /// The known price of that name.
    pub fn find(name: &str) -> Option<Self> {
        Self::known().into_iter().find(|price| price.name == name)
    }

    /// What `words` mean: the name of a known price, or US dollars for an hour of a machine.
    ///
    /// # Errors
    /// They are neither; the message lists the names.
    pub fn parse(words: &str) -> Result<Self, PriceError> {
        let usd = words.parse().ok().filter(|usd: &f64| usd.is_finite() && *usd >= 0.0);
        Self::find(words).or(usd.map(Self::of_user)).ok_or_else(|| {
            let known: Vec<_> = Self::known().into_iter().map(|price| price.name).collect();
            PriceError(words.to_owned(), known.join(", "))
        })
    }

    /// What `machines` of them cost for `elapsed_s` seconds. A resumed run's clock goes on, and so does its cost.
    ///
    /// The record of 2018, 16 machines for 18:05 (DAWNBench has 0.3014392769998974 hours):
    ///
    /// ```
    /// use burn_sprint::cluster::Price;
    /// let price = Price::find("p3.16xlarge-2018").expect("is known");
    /// let cost = price.of(16, 0.301_439_276_999_897_4 * 3600.0);
    /// assert_eq!(format!("{:.2}", cost.on_demand_usd), "118.07");
    /// assert_eq!(cost.spot_usd.map(|[low, high]| (low.round(), high.round())), Some((35.0, 39.0)));
    /// ```
    pub fn of(&self, machines: u32, elapsed_s: f64) -> Cost {
        let machine_hours = f64::from(machines) * elapsed_s / 3600.0;
        Cost {
            on_demand_usd: machine_hours * self.on_demand_usd,
            spot_usd: self.spot_usd.map(|range| range.map(|usd| machine_hours * usd)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_price_is_a_price_and_says_from_when_and_whom() {
        let known = Price::known();
        assert!(known.len() >= 2);
        for price in &known {
            assert!(price.on_demand_usd > 0.0 && price.gpus > 0, "{price:?}");
            assert!(!price.date.is_empty() && !price.source.is_empty(), "{price:?}");
            if let Some([low, high]) = price.spot_usd {
                assert!(0.0 < low && low <= high && high < price.on_demand_usd, "{price:?}");
            }
        }
        let mut names: Vec<_> = known.iter().map(|price| &price.name).collect();
        names.dedup();
        assert_eq!(names.len(), known.len(), "names are told apart");
    }

    #[test]
    fn money_is_machines_times_hours_times_price() {
        let cost = Price::of_user(2.5).of(4, 1800.0);
        assert_eq!(cost, Cost { on_demand_usd: 5.0, spot_usd: None });
        assert_eq!(Price::find("nothing"), None);
    }

    #[test]
    fn a_price_is_a_name_or_a_number() {
        assert_eq!(Price::parse("24.48").unwrap(), Price::of_user(24.48));
        assert_eq!(Price::parse("p3.16xlarge-2018").unwrap().on_demand_usd, 24.48);
        for wrong in ["", "p3", "-1", "NaN", "inf"] {
            let message = Price::parse(wrong).unwrap_err().to_string();
            assert!(message.contains("one of: p3.16xlarge-2018"), "{message}");
        }
    }
}
