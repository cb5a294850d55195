"""Figures: a DataFrame in, a Plotly figure out. No Streamlit, no SQL, no state; `theme` is "light" or "dark".

One file per page; what they share is in `base`. Labels and names come from traces, and Plotly reads a little HTML in
text: whatever is not ours goes through `plain`.
"""

from app.charts.base import EXPORT_SCALE, modebar, plain
from app.charts.compare import difference_heatmap, pair_curves
from app.charts.consistency import budget_curve, cache_curves, srp_curves
from app.charts.overview import coverage_bars, layer_curve, load_cap, load_heatmap
from app.charts.pruning import agreement_matrix, criteria_curves, evaluated_curves, importance_heatmap
from app.charts.specialization import atlas, contrast_bars, label_heatmap
from app.charts.sql import quick_chart
from app.charts.steering import changed_bars, effect_bars, kl_bars
from app.charts.structure import cluster_strip, clustered, flow_sankey, pair_heatmap, tie_graph
from app.charts.super_experts import maxima_heatmap, maxima_strip
from app.charts.tokens import logit_bars, token_curve
from app.charts.uncertainty import label_lines, needed_bars, needed_curve

__all__ = [
    "EXPORT_SCALE",
    "agreement_matrix",
    "atlas",
    "budget_curve",
    "cache_curves",
    "changed_bars",
    "cluster_strip",
    "clustered",
    "contrast_bars",
    "coverage_bars",
    "criteria_curves",
    "difference_heatmap",
    "effect_bars",
    "evaluated_curves",
    "flow_sankey",
    "importance_heatmap",
    "kl_bars",
    "label_heatmap",
    "label_lines",
    "layer_curve",
    "load_cap",
    "load_heatmap",
    "logit_bars",
    "maxima_heatmap",
    "maxima_strip",
    "modebar",
    "needed_bars",
    "needed_curve",
    "pair_curves",
    "pair_heatmap",
    "plain",
    "quick_chart",
    "srp_curves",
    "tie_graph",
    "token_curve",
]
