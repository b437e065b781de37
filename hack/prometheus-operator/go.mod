// The custom resource definitions of the Prometheus Operator, by which tests check what the chart renders. Nothing is
// built of it.
module ecs-retirement.dev/hack/prometheus-operator

go 1.26.0

require github.com/prometheus-operator/prometheus-operator v0.92.0
