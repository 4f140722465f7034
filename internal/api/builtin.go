package api

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// builtin are the managed policies that are there from the start and cannot be
// changed, under the names that AWS's have and that existing set-ups attach.
var builtin = func() map[string]sallyport.Policy {
	all := map[string]sallyport.Policy{}
	for name, p := range map[string][2]string{
		"AdministratorAccess":          {"Everything, on everything.", allow("*")},
		"AmazonSSMManagedInstanceCore": {"What the agent on a managed node needs to be managed.", allow(nodeActions...)},
		"AmazonSSMReadOnlyAccess":      {"Seeing nodes and sessions, and changing nothing.", allow("ssm:Describe*", "ssm:Get*", "ssm:List*")},
		"AmazonSSMFullAccess":          {"Everything in Systems Manager.", allow("ssm:*", "ssmmessages:*", "ec2messages:*")},
		"AWSKeyManagementServicePowerUser": {"Making KMS keys and aliases, and seeing what there is.", allow("kms:CreateAlias", "kms:CreateKey", "kms:DeleteAlias",
			"kms:Describe*", "kms:Get*", "kms:List*", "kms:TagResource", "kms:UntagResource", "iam:ListGroups", "iam:ListRoles", "iam:ListUsers")},
		"AmazonSSMManagedEC2InstanceDefaultPolicy": {"What the agent on a managed node needs to be managed, without parameters.",
			allow(slices.DeleteFunc(slices.Clone(nodeActions), func(a string) bool { return strings.HasPrefix(a, "ssm:GetParameter") })...)},
		"AmazonSSMPatchAssociation": {"Seeing patch baselines.", statements(
			statement("arn:aws:ssm:*:*:patchbaseline/*", "ssm:DescribeEffectivePatchesForPatchBaseline", "ssm:GetPatchBaseline"),
			statement("*", "tag:GetResources", "ssm:DescribePatchBaselines"))},
		"AmazonSSMDirectoryServiceAccess": {"Joining a directory.", allow("ds:CreateComputer", "ds:DescribeDirectories")},
		"CloudWatchAgentServerPolicy": {"What the CloudWatch agent needs.", statements(
			statement("*", cloudWatchActions...), statement("arn:aws:ssm:*:*:parameter/AmazonCloudWatch-*", "ssm:GetParameter"))},
		"CloudWatchAgentAdminPolicy": {"What the CloudWatch agent needs, and writing its configuration.", statements(
			statement("*", cloudWatchActions...), statement("arn:aws:ssm:*:*:parameter/AmazonCloudWatch-*", "ssm:GetParameter", "ssm:PutParameter"))},
		"ReadOnlyAccess": {"Seeing everything, and changing nothing.", allow("ssm:Describe*", "ssm:Get*", "ssm:List*",
			"iam:Generate*", "iam:Get*", "iam:List*", "iam:Simulate*", "kms:Describe*", "kms:Get*", "kms:List*")},
		"IAMFullAccess":     {"Everything in IAM.", allow("iam:*")},
		"IAMReadOnlyAccess": {"Seeing users, groups, roles and policies, and changing nothing.", allow("iam:Get*", "iam:List*", "iam:SimulatePrincipalPolicy")},
	} {
		arn := "arn:" + sallyport.Partition + ":iam::aws:policy/" + name
		all[arn] = sallyport.Policy{
			ARN: arn, Name: name, Path: "/", ID: builtinID(name), Description: p[0],
			Created: BuiltinSince, Updated: BuiltinSince, Default: "v1", Document: p[1],
		}
	}
	return all
}()

// BuiltinSince is the date of what is there from the start.
var BuiltinSince = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// nodeActions is what an agent may call sooner or later. (AWS's policy of the
// same name; amazon-ssm-agent calls every one of them.)
var nodeActions = []string{
	"ssm:DescribeAssociation", "ssm:GetDeployablePatchSnapshotForInstance", "ssm:GetDocument", "ssm:DescribeDocument",
	"ssm:GetManifest", "ssm:GetParameter", "ssm:GetParameters", "ssm:ListAssociations", "ssm:ListInstanceAssociations",
	"ssm:PutInventory", "ssm:PutComplianceItems", "ssm:PutConfigurePackageResult", "ssm:UpdateAssociationStatus",
	"ssm:UpdateInstanceAssociationStatus", "ssm:UpdateInstanceInformation",
	"ssmmessages:CreateControlChannel", "ssmmessages:CreateDataChannel", "ssmmessages:OpenControlChannel", "ssmmessages:OpenDataChannel",
	"ec2messages:AcknowledgeMessage", "ec2messages:DeleteMessage", "ec2messages:FailMessage", "ec2messages:GetEndpoint",
	"ec2messages:GetMessages", "ec2messages:SendReply",
}

// cloudWatchActions are those that the CloudWatch agent calls of services that are
// not here.
var cloudWatchActions = []string{
	"cloudwatch:PutMetricData", "ec2:DescribeVolumes", "ec2:DescribeTags", "logs:PutLogEvents", "logs:PutRetentionPolicy",
	"logs:DescribeLogStreams", "logs:DescribeLogGroups", "logs:CreateLogStream", "logs:CreateLogGroup", "xray:PutTraceSegments",
	"xray:PutTelemetryRecords", "xray:GetSamplingRules", "xray:GetSamplingTargets", "xray:GetSamplingStatisticSummaries",
}

func allow(actions ...string) string { return statements(statement("*", actions...)) }

func statement(resource string, actions ...string) string {
	return `{"Effect":"Allow","Action":["` + strings.Join(actions, `","`) + `"],"Resource":"` + resource + `"}`
}

func statements(all ...string) string {
	return `{"Version":"2012-10-17","Statement":[` + strings.Join(all, ",") + `]}`
}

// builtinID makes an ID that looks as IDs do, and is of one name alone and always
// the same.
func builtinID(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "ANPA" + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

// Builtin returns the managed policy of AWS's with an ARN, if it is one that is
// here from the start.
func Builtin(arn string) (sallyport.Policy, bool) {
	p, ok := builtin[arn]
	return p, ok
}

// Builtins returns all of them, in no order.
func Builtins() []sallyport.Policy {
	all := make([]sallyport.Policy, 0, len(builtin))
	for _, p := range builtin {
		all = append(all, p)
	}
	return all
}
