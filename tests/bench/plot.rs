//! Plots in SVG: bars to compare contenders, lines for growth.

use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const LEFT: f64 = 200.0;
const COLOURS: [&str; 6] = [
    "#1f6feb", "#d1495b", "#2e8b57", "#8a63d2", "#b8860b", "#555555",
];

/// Horizontal bars; the largest value spans the picture.
pub(crate) fn bars(title: &str, unit: &str, values: &[(String, f64)]) -> String {
    let most = values
        .iter()
        .map(|(_, value)| *value)
        .fold(f64::MIN_POSITIVE, f64::max);
    let height = 50.0 + 26.0 * values.len() as f64;
    let mut svg = head(title, height);
    for (row, (name, value)) in values.iter().enumerate() {
        let y = 42.0 + 26.0 * row as f64;
        let width = (WIDTH - LEFT - 90.0) * value / most;
        let colour = COLOURS[usize::from(!name.starts_with("outboxd"))];
        let _ = write!(
            svg,
            "<text x='{x}' y='{base}' text-anchor='end'>{name}</text>\
             <rect x='{LEFT}' y='{y}' width='{width:.1}' height='18' fill='{colour}'/>\
             <text x='{end:.1}' y='{base}'>{value:.2} {unit}</text>",
            x = LEFT - 8.0,
            base = y + 14.0,
            end = LEFT + width + 6.0,
        );
    }
    svg + "</svg>\n"
}

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    /// From zero, in even steps.
    Linear,
    /// In powers of ten.
    Log,
}

/// Label and scale of an axis.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Axis {
    pub(crate) label: &'static str,
    pub(crate) scale: Scale,
}

impl Axis {
    fn range(self, values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
        let most = values.clone().fold(f64::MIN_POSITIVE, f64::max);
        match self.scale {
            Scale::Linear => (0.0, most),
            Scale::Log => {
                let least = values.fold(f64::MAX, f64::min).max(1e-9);
                let (low, high) = (least.log10().floor(), most.log10().ceil());
                (low, high.max(low + 1.0))
            }
        }
    }

    fn place(self, (low, high): (f64, f64), value: f64) -> f64 {
        let value = match self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-9).log10(),
        };
        (value - low) / (high - low)
    }

    fn marks(self, (low, high): (f64, f64)) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let step = step(high);
                let steps = (high / step) as u32;
                (0..=steps).map(|n| step * f64::from(n)).collect()
            }
            Scale::Log => (low as i32..=high as i32)
                .map(|power| 10f64.powi(power))
                .collect(),
        }
    }
}

/// One line.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// Lines over a common axis.
pub(crate) fn lines(title: &str, x: Axis, y: Axis, all: &[Series]) -> String {
    const LEFT: f64 = 90.0;
    const TOP: f64 = 40.0;
    const HEIGHT: f64 = 260.0;
    const SPAN: f64 = WIDTH - LEFT - 190.0;
    let points = || all.iter().flat_map(|series| series.points.iter());
    let xs = x.range(points().map(|point| point.0));
    let ys = y.range(points().map(|point| point.1));
    let across = |value| LEFT + SPAN * x.place(xs, value);
    let down = |value| TOP + HEIGHT * (1.0 - y.place(ys, value));
    let mut svg = head(title, TOP + HEIGHT + 60.0);
    for mark in x.marks(xs) {
        let at = across(mark);
        let _ = write!(
            svg,
            "<line x1='{at:.1}' y1='{TOP}' x2='{at:.1}' y2='{end}' stroke='#ddd'/>\
             <text x='{at:.1}' y='{text}' text-anchor='middle'>{}</text>",
            number(mark),
            end = TOP + HEIGHT,
            text = TOP + HEIGHT + 18.0,
        );
    }
    for mark in y.marks(ys) {
        let at = down(mark);
        let _ = write!(
            svg,
            "<line x1='{LEFT}' y1='{at:.1}' x2='{end}' y2='{at:.1}' stroke='#ddd'/>\
             <text x='{text}' y='{base:.1}' text-anchor='end'>{}</text>",
            number(mark),
            end = LEFT + SPAN,
            text = LEFT - 8.0,
            base = at + 4.0,
        );
    }
    let _ = write!(
        svg,
        "<text x='{middle}' y='{below}' text-anchor='middle'>{}</text>\
         <text x='8' y='{TOP}'>{}</text>",
        x.label,
        y.label,
        middle = LEFT + SPAN / 2.0,
        below = TOP + HEIGHT + 40.0,
    );
    for (number, series) in all.iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let path: Vec<String> = series
            .points
            .iter()
            .map(|(x, y)| format!("{:.1},{:.1}", across(*x), down(*y)))
            .collect();
        let _ = write!(
            svg,
            "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='2'/>\
             <text x='{x}' y='{y}' fill='{colour}'>{}</text>",
            path.join(" "),
            series.name,
            x = LEFT + SPAN + 12.0,
            y = TOP + 14.0 + 20.0 * number as f64,
        );
    }
    svg + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' \
         font-family='sans-serif' font-size='13'>\
         <rect width='{WIDTH}' height='{height}' fill='#fff'/>\
         <text x='8' y='20' font-weight='bold'>{title}</text>"
    )
}

/// One, two or five times a power of ten, so that at most five steps reach this value.
fn step(most: f64) -> f64 {
    let power = 10f64.powf((most / 5.0).log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * power);
    let fits = steps.into_iter().find(|step| most / step <= 5.0);
    fits.unwrap_or(10.0 * power)
}

/// A number as an axis label.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{} M", value / 1e6),
        size if size >= 1e3 => format!("{} k", value / 1e3),
        size if size == 0.0 || size >= 10.0 => format!("{value:.0}"),
        _ => format!("{value}"),
    }
}
