"""A grid search over random forests: both the search and each forest are parallel."""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import GridSearchCV

from cluster import on_cluster, parser


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--trees", type=int, default=20, help="in each forest")
    given = options.parse_args()
    X, y = load_digits(return_X_y=True)
    search = GridSearchCV(
        RandomForestClassifier(n_estimators=given.trees, random_state=0, n_jobs=-1),
        {"max_depth": [4, 8, None], "max_features": [4, 8]},
        cv=3,
        n_jobs=-1,
    )
    with on_cluster(given.scheduler):
        search.fit(X, y)
    print(f"best score: {search.best_score_:.4f} with {search.best_params_}")


if __name__ == "__main__":
    main()
