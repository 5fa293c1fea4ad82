"""The kubectl commands of k8s/README.md, and what each of them asks the API for."""

# Beginning of a command -> (API group, resource, verbs).
GUIDE = {
    "kubectl apply -f job.yaml": [("ray.io", "rayjobs", "get create patch"), ("", "configmaps", "get create patch")],
    "kubectl -n raymill get rayjobs --watch": [("ray.io", "rayjobs", "list watch")],
    "kubectl -n raymill logs -f -l": [("", "pods", "list get"), ("", "pods/log", "get")],
    "kubectl -n raymill delete rayjob RUN_ID": [("ray.io", "rayjobs", "get delete list watch")],
    "kubectl -n raymill get service ": [("", "services", "list")],
    "kubectl -n raymill port-forward service/HEAD": [
        ("", "services", "get"), ("", "pods", "get list"), ("", "pods/portforward", "create")],
    "kubectl -n raymill exec POD": [("", "pods", "get"), ("", "pods/exec", "create")],
    "kubectl -n raymill get secret CLUSTER": [("", "secrets", "get")],
    "kubectl -n raymill describe rayjob NAME": [("ray.io", "rayjobs", "get"), ("", "events", "list")],
    "kubectl -n raymill get events --sort-by": [("", "events", "list")],
    "kubectl describe pod": [("", "pods", "get list")],
    "kubectl -n raymill get serviceaccount raymill-worker": [("", "serviceaccounts", "get")],
    "kubectl -n raymill describe workloads": [("kueue.x-k8s.io", "workloads", "get list")],
}  # fmt: skip
